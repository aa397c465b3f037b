#include "thaw/study/report.h"

#include <fmt/format.h>

#include "report_data_impl.h"
#include "report_html_impl.h"
#include "report_style_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

std::string answer(const ReportData& data) {
  std::string text = fmt::format("<header><h1>{}</h1>", escaped(data.options.title));
  if (!data.options.subtitle.empty()) text += fmt::format("<p class=\"sub\">{}</p>", escaped(data.options.subtitle));
  if (!data.pick) return text + "<p class=\"answer\">No configuration has results with every seed yet.</p></header>\n";
  text += fmt::format("<p class=\"answer\"><a href=\"#{}\">{}</a></p>", data.link_of(data.pick->picked),
                      escaped(data.pick->picked.name()));
  text += fmt::format("<p>{}</p></header>\n", escaped(data.pick->reason()));
  return text;
}

std::string reading() {
  return "<section aria-labelledby=\"reading\"><h2 id=\"reading\">How to read this</h2>\n<ul>\n"
         "<li>A held-out loss says how well recorded actions are predicted, not how often the robot succeeds. Where "
         "two configurations are close, ask the robot or a simulator (<code>--evaluator</code>).</li>\n"
         "<li>Intervals are one standard error over the seeds of this sweep. With two or three seeds they are "
         "rough.</li>\n"
         "<li>Memory is planned for a training of its own; the process peak includes what a sweep keeps for all "
         "points.</li>\n"
         "<li>Times were measured while the sweep ran and are not the same in every run. Everything else is.</li>\n"
         "<li>The pick holds for this data and this number of steps.</li>\n</ul></section>\n";
}

std::string shortened(const std::string& text, std::size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 2) + "..";
}

}  // namespace

std::vector<BlockImportance> importance_from_json(const Json& json, const std::string& where) {
  const Json list = json.is_array() ? json : json_field<Json>(json, "importance", where);
  if (!list.is_array()) {
    throw FormatError(Problem{.where = where, .expected = "a list \"importance\"", .found = list.type_name()});
  }
  std::vector<BlockImportance> all;
  for (const Json& each : list) {
    all.push_back({.stack = json_field<std::string>(each, "stack", where),
                   .measure = json_field<std::string>(each, "measure", where),
                   .values = json_field<std::vector<double>>(each, "values", where)});
  }
  return all;
}

std::string sweep_report(std::span<const SweepResult> results, const ReportOptions& options) {
  const ReportData data(results, options);
  std::string page = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
      escaped(options.title), kReportStyle);
  page += answer(data) + report_charts(data) + importance_charts(data) + report_tables(data) + reading();
  return page + "</main>\n</body>\n</html>\n";
}

std::string sweep_table(std::span<const SweepResult> results, const ReportOptions& options) {
  const std::vector<SweepCandidate> candidates = sweep_candidates(results, options.figure, options.steps);
  const std::optional<Pick> chosen = pick(candidates, options.cost, options.figure);
  std::string text = fmt::format("{:<25} {:>8} {:>5} {:>18} {:>5} {:>13} {:>9} {:>7}\n", "freeze", "rate", "draws",
                                 shortened(options.figure, 18), "seeds", "parameters", "peak", "seconds");
  for (const SweepCandidate& each : candidates) {
    const std::string seeds = fmt::format("{}{}", each.errors.size(), each.failed > 0 ? "!" : "");
    const std::string error =
        each.errors.empty()
            ? "failed"
            : fmt::format("{:.5g}{}", each.mean, each.spread ? fmt::format(" +-{:.2g}", *each.spread) : "");
    text += fmt::format("{:<25} {:>8.3g} {:>5} {:>18} {:>5} {:>13} {:>9} {:>7.1f}{}\n", shortened(each.name(), 25),
                        each.learning_rate, each.draws, error, seeds, count_text(each.trainable_parameters),
                        each.planned_peak_bytes ? size_text(each.planned_peak_bytes) : "-", each.seconds,
                        chosen && same_configuration(each, chosen->picked) ? " *" : "");
  }
  for (const SweepResult& result : results) {
    if (result.failed()) text += fmt::format("{} ({}): {}\n", result.point.id, result.point.name(), result.error);
  }
  return text + (chosen ? "\n* " + chosen->reason() + "\n" : "\nNo configuration has results with every seed.\n");
}

}  // namespace thaw
