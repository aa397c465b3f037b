#include "thaw/study/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "report_chart_impl.h"
#include "report_html_impl.h"
#include "report_style_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

std::string spread_text(const SweepCandidate& candidate) {
  return candidate.spread ? fmt::format(" ± {}", number_text(*candidate.spread)) : std::string();
}

bool same(const SweepCandidate& a, const SweepCandidate& b) {
  return a.freeze == b.freeze && a.pruning == b.pruning && a.learning_rate == b.learning_rate && a.draws == b.draws;
}

std::string with_figure(const std::string& svg, const std::string& caption) {
  return fmt::format("<figure>{}<figcaption>{}</figcaption></figure>\n", svg, escaped(caption));
}

std::string in_code(const std::string& text) { return fmt::format("<code>{}</code>", escaped(text)); }

/// The stack whose blocks all configurations count; empty when they differ in more than that.
std::string only_stack(const std::vector<SweepCandidate>& candidates) {
  std::string stack;
  for (const SweepCandidate& candidate : candidates) {
    if (candidate.blocks.size() != 1) return {};
    const std::string& name = candidate.blocks.begin()->first;
    if (!stack.empty() && stack != name) return {};
    stack = name;
  }
  return stack;
}

/// What the candidates were pruned to, fewest blocks removed first.
std::vector<SweepPruning> prunings_of(const std::vector<SweepCandidate>& candidates) {
  std::vector<SweepPruning> all;
  for (const SweepCandidate& candidate : candidates) {
    if (std::find(all.begin(), all.end(), candidate.pruning) == all.end()) all.push_back(candidate.pruning);
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const SweepPruning& a, const SweepPruning& b) { return a.count < b.count; });
  return all;
}

/// "2 (expert 1, 2; language 1, 2)", or nothing for a whole policy.
std::string pruning_text(const SweepPruning& pruning) {
  if (pruning.count == 0) return {};
  std::vector<std::string> lists;
  for (const auto& [stack, blocks] : pruning.removed) {
    lists.push_back(fmt::format("{} {}", stack, fmt::join(blocks, ", ")));
  }
  return fmt::format("{} ({})", pruning.count, fmt::join(lists, "; "));
}

class Report {
 public:
  Report(std::span<const SweepResult> results, const ReportOptions& options)
      : results_(results),
        options_(options),
        candidates_(sweep_candidates(results, options.figure, options.steps)),
        pick_(pick(candidates_, options.cost, options.figure)),
        stack_(only_stack(candidates_)),
        prunings_(prunings_of(candidates_)),
        any_pruned_(std::any_of(results.begin(), results.end(),
                                [](const SweepResult& result) { return result.point.pruning.count > 0; })) {}

  [[nodiscard]] std::string html() const {
    std::string page = fmt::format(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
        "<meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n"
        "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
        escaped(options_.title), kReportStyle);
    page += answer() + charts() + importance() + configurations() + lines() + reading();
    return page + "</main>\n</body>\n</html>\n";
  }

 private:
  [[nodiscard]] std::string answer() const {
    std::string text = fmt::format("<header><h1>{}</h1>", escaped(options_.title));
    if (!options_.subtitle.empty()) text += fmt::format("<p class=\"sub\">{}</p>", escaped(options_.subtitle));
    if (!pick_) return text + "<p class=\"answer\">No configuration has results with every seed yet.</p></header>\n";
    text += fmt::format("<p class=\"answer\"><a href=\"#{}\">{}</a></p>", link_of(pick_->picked),
                        escaped(pick_->picked.name()));
    text += fmt::format("<p>{}</p></header>\n", escaped(pick_->reason()));
    return text;
  }

  // Charts

  [[nodiscard]] std::string charts() const {
    const std::vector<SweepCandidate> drawn = measured();
    if (drawn.empty()) return {};
    std::string html = "<section aria-label=\"Charts\" class=\"charts\">\n";
    html += error_chart(drawn);
    html += cost_chart(drawn, "memory", "planned peak memory, MB", [](const SweepCandidate& each) {
      return each.planned_peak_bytes ? static_cast<double>(*each.planned_peak_bytes) / 1e6 : std::nan("");
    });
    html += cost_chart(drawn, "time", "measured time of one training, s",
                       [](const SweepCandidate& each) { return each.seconds; });
    return html + horizon_chart() + "</section>\n";
  }

  [[nodiscard]] std::vector<SweepCandidate> measured() const {
    std::vector<SweepCandidate> result;
    std::copy_if(candidates_.begin(), candidates_.end(), std::back_inserter(result),
                 [](const SweepCandidate& candidate) { return !candidate.errors.empty(); });
    return result;
  }

  [[nodiscard]] std::string error_chart(const std::vector<SweepCandidate>& drawn) const {
    Chart chart{.id = "error", .title = fmt::format("{} by configuration", figure_title(options_.figure))};
    chart.description =
        "Each large dot is the mean over seeds with one standard error to both sides, each small dot "
        "one seed. The line is the limit that the pick must keep.";
    chart.x_title = stack_.empty() ? "configuration (row of the table)" : "last blocks of " + stack_ + " that train";
    chart.y_title = figure_title(options_.figure);
    std::map<std::string, std::size_t> places;
    for (const SweepCandidate* candidate : by_size(drawn)) {
      if (!places.emplace(place_of(*candidate), places.size()).second) continue;
      chart.categories.push_back(short_name(*candidate));
    }
    for (const SweepCandidate& candidate : drawn) {
      ChartMark mark = mark_of(candidate);
      mark.x = static_cast<double>(places.at(place_of(candidate))) + shift_of(candidate);
      mark.spread = candidate.spread;
      mark.singles = candidate.errors;
      mark.faint = std::any_of(drawn.begin(), drawn.end(), [&candidate](const SweepCandidate& other) {
        return other.name() == candidate.name() && other.mean < candidate.mean;
      });
      mark.label.clear();
      chart.marks.push_back(std::move(mark));
    }
    if (pick_) {
      chart.limit = pick_->limit;
      chart.limit_text = fmt::format("limit {}", number_text(pick_->limit));
    }
    return with_figure(chart_svg(chart), chart.title +
                                             ": mean, standard error and every seed. The axis does not begin "
                                             "at zero." +
                                             shapes());
  }

  /// Bases stand side by side over one number of blocks, and apart where a place is a row of the table.
  [[nodiscard]] std::string place_of(const SweepCandidate& candidate) const {
    return stack_.empty() ? candidate.name() : candidate.freeze;
  }

  /// From the middle of a place, in places.
  [[nodiscard]] double shift_of(const SweepCandidate& candidate) const {
    constexpr double kRoom = 0.6;
    if (stack_.empty()) return 0.0;
    const auto bases = static_cast<double>(prunings_.size());
    return (static_cast<double>(shape_of(candidate)) - (bases - 1.0) / 2.0) * kRoom / bases;
  }

  [[nodiscard]] std::size_t shape_of(const SweepCandidate& candidate) const {
    return static_cast<std::size_t>(std::find(prunings_.begin(), prunings_.end(), candidate.pruning) -
                                    prunings_.begin());
  }

  /// What each shape of marks stands for; nothing where there is one.
  [[nodiscard]] std::string shapes() const {
    if (!any_pruned_) return {};
    std::vector<std::string> kinds;
    for (std::size_t i = 0; i < prunings_.size(); ++i) {
      kinds.push_back(
          fmt::format("{} {}", mark_shape(i),
                      prunings_[i].count == 0 ? "the whole policy" : fmt::format("{} pruned", prunings_[i].count)));
    }
    return fmt::format(" {}.", fmt::join(kinds, ", "));
  }

  [[nodiscard]] std::string cost_chart(const std::vector<SweepCandidate>& drawn, const std::string& id,
                                       const std::string& x_title,
                                       const std::function<double(const SweepCandidate&)>& cost) const {
    Chart chart{.id = id, .x_title = x_title, .y_title = figure_title(options_.figure), .front = true};
    chart.title = fmt::format("{} against {}", chart.y_title, id);
    chart.description = "The line joins the configurations that no other betters in both.";
    for (const SweepCandidate& candidate : drawn) {
      ChartMark mark = mark_of(candidate);
      mark.x = cost(candidate);
      mark.text += fmt::format(", {} {}", x_title, number_text(mark.x));
      if (std::isfinite(mark.x)) chart.marks.push_back(std::move(mark));
    }
    if (chart.marks.empty()) return {};
    const std::vector<std::size_t> front = pareto_front(chart.marks);
    for (std::size_t i = 0; i < chart.marks.size(); ++i) {
      const bool on_front = std::find(front.begin(), front.end(), i) != front.end();
      if (!on_front && !chart.marks[i].chosen) chart.marks[i].label.clear();
    }
    return with_figure(chart_svg(chart), chart.title + ". " + chart.description + shapes());
  }

  [[nodiscard]] ChartMark mark_of(const SweepCandidate& candidate) const {
    std::string text = fmt::format("{}, rate {}", candidate.name(), number_text(candidate.learning_rate));
    if (candidate.draws > 1) text += fmt::format(", {} draws", candidate.draws);
    text +=
        fmt::format(": {} {}{}", figure_title(options_.figure), number_text(candidate.mean), spread_text(candidate));
    return {.y = candidate.mean,
            .label = short_name(candidate),
            .link = link_of(candidate),
            .text = std::move(text),
            .chosen = pick_ && same(candidate, pick_->picked),
            .shape = shape_of(candidate)};
  }

  /// Fewest trained blocks first or, where configurations differ in more, fewest trained parameters.
  [[nodiscard]] std::vector<const SweepCandidate*> by_size(const std::vector<SweepCandidate>& candidates) const {
    std::vector<const SweepCandidate*> order;
    for (const SweepCandidate& candidate : candidates) order.push_back(&candidate);
    const auto size = [this](const SweepCandidate* each) {
      return stack_.empty() ? each->trainable_parameters : each->blocks.begin()->second;
    };
    std::stable_sort(order.begin(), order.end(),
                     [&size](const SweepCandidate* a, const SweepCandidate* b) { return size(a) < size(b); });
    return order;
  }

  /// The number of blocks, a short freeze, or the number of its row.
  [[nodiscard]] std::string short_name(const SweepCandidate& candidate) const {
    constexpr std::size_t kShort = 6;
    if (!stack_.empty()) return std::to_string(candidate.blocks.begin()->second);
    return candidate.name().size() <= kShort ? candidate.name() : fmt::format("#{}", row_of(candidate) + 1);
  }

  [[nodiscard]] std::size_t row_of(const SweepCandidate& candidate) const {
    const auto found = std::find_if(candidates_.begin(), candidates_.end(),
                                    [&candidate](const SweepCandidate& each) { return same(each, candidate); });
    return static_cast<std::size_t>(found - candidates_.begin());
  }
  [[nodiscard]] std::string link_of(const SweepCandidate& candidate) const {
    return fmt::format("c{}", row_of(candidate) + 1);
  }

  /// Open-loop action error of the pick, and of the best when it is another, by step of the chunk.
  [[nodiscard]] std::string horizon_chart() const {
    if (!pick_) return {};
    LineChart chart{.id = "horizon",
                    .title = "Open-loop action error by step of the chunk",
                    .description =
                        "Mean squared error of the sampled chunk against the recorded one, normalised, mean "
                        "over seeds.",
                    .x_title = "step of the chunk",
                    .y_title = "action mse"};
    add_horizon(chart, pick_->picked, "pick: " + pick_->picked.name(), true);
    if (!same(pick_->best, pick_->picked)) add_horizon(chart, pick_->best, "best: " + pick_->best.name(), false);
    if (chart.lines.empty()) return {};
    return with_figure(line_chart_svg(chart), chart.title + ". " + chart.description);
  }

  void add_horizon(LineChart& chart, const SweepCandidate& candidate, const std::string& name, bool chosen) const {
    std::vector<double> sums;
    for (const std::string& id : candidate.ids) {
      const SweepResult* result = find_result(results_, id);
      const auto& series = result->held_out->series;
      const auto found = series.find("action_mse_by_step");
      if (found == series.end()) return;
      sums.resize(found->second.size(), 0.0);
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += found->second[i];
    }
    for (double& sum : sums) sum /= static_cast<double>(candidate.ids.size());
    if (sums.size() > 1) chart.lines.push_back({.name = name, .values = std::move(sums), .chosen = chosen});
  }

  [[nodiscard]] std::string importance() const {
    if (options_.importance.empty()) return {};
    std::string html =
        "<section aria-labelledby=\"importance\"><h2 id=\"importance\">Importance of blocks</h2>"
        "<div class=\"charts\">\n";
    std::size_t number = 0;
    for (const BlockImportance& each : options_.importance) {
      BarChart chart{.id = fmt::format("importance-{}", ++number), .values = each.values};
      chart.title = fmt::format("{} of {}", each.measure, each.stack);
      chart.x_title = "block of " + each.stack;
      chart.y_title = each.measure;
      chart.description = "By block:";
      for (const double value : each.values) chart.description.append(" ").append(number_text(value));
      html += with_figure(bar_chart_svg(chart), chart.title);
    }
    return html + "</div></section>\n";
  }

  // Tables

  using Cells = std::vector<std::string>;
  static std::string row(const char* tag, const Cells& cells) {
    std::string html;
    for (const std::string& cell : cells) html += fmt::format("<{}>{}</{}>", tag, cell, tag);
    return html;
  }
  static std::string heads(const Cells& cells) {
    std::string html = "<thead><tr>";
    for (const std::string& cell : cells) html += fmt::format("<th scope=\"col\">{}</th>", cell);
    return html + "</tr></thead>\n";
  }
  static std::string begin_table(const std::string& id, const std::string& title) {
    return fmt::format(
        "<section aria-labelledby=\"{}\"><h2 id=\"{}\">{}</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
        "aria-labelledby=\"{}\"><table>\n",
        id, id, title, id);
  }

  [[nodiscard]] std::string configurations() const {
    std::string html = begin_table("configurations", "Configurations");
    html += heads(with_pruned({"#", "freeze"}, "pruned",
                              {"rate", "draws", escaped(figure_title(options_.figure)), "seeds", "trainable parameters",
                               "planned peak", "seconds", "samples/s", "results"}));
    std::size_t number = 0;
    for (const SweepCandidate& each : candidates_) {
      ++number;
      const bool chosen = pick_ && same(each, pick_->picked);
      html += fmt::format("<tr id=\"c{}\"{}>", number, chosen ? " class=\"chosen\"" : "");
      html += row(
          "td", with_pruned({std::to_string(number), escaped(each.freeze) + (chosen ? " <strong>(pick)</strong>" : "")},
                            escaped(pruning_text(each.pruning)),
                            {number_text(each.learning_rate), std::to_string(each.draws),
                             number_text(each.mean) + spread_text(each), seeds_text(each),
                             each.errors.empty() ? "–" : count_text(each.trainable_parameters),
                             size_text(each.planned_peak_bytes), number_text(each.seconds),
                             number_text(each.samples_per_second), id_links(each)}));
      html += "</tr>\n";
    }
    return html + "</table></div></section>\n";
  }

  /// Cells of a row, `pruned` among them where some base of the sweep is.
  [[nodiscard]] Cells with_pruned(Cells before, const std::string& pruned, const Cells& after) const {
    if (any_pruned_) before.push_back(pruned);
    before.insert(before.end(), after.begin(), after.end());
    return before;
  }

  static std::string seeds_text(const SweepCandidate& candidate) {
    std::string text = std::to_string(candidate.errors.size());
    if (candidate.failed > 0) text += fmt::format(" ({} failed)", candidate.failed);
    return text;
  }

  static std::string id_links(const SweepCandidate& candidate) {
    std::vector<std::string> links;
    for (const std::string& id : candidate.ids) {
      links.push_back(fmt::format("<a href=\"#r-{}\">{}</a>", escaped(id), escaped(id)));
    }
    return fmt::format("{}", fmt::join(links, " "));
  }

  [[nodiscard]] std::string lines() const {
    std::string html = begin_table("results", "Every training: the lines of results.jsonl");
    html += heads(
        with_pruned({"line", "id", "why", "freeze"}, "pruned",
                    {"rate", "draws", "seed", "steps", "held-out loss", "action mse", "trainable parameters",
                     "planned peak", "process peak", "head", "seconds", "samples/s", "cache", "evaluator", "error"}));
    std::size_t line = 0;
    for (const SweepResult& each : results_) {
      html += fmt::format("<tr id=\"r-{}\">", escaped(each.point.id));
      html += row("td", line_cells(++line, each)) + "</tr>\n";
    }
    return html + "</table></div></section>\n";
  }

  [[nodiscard]] Cells line_cells(std::size_t line, const SweepResult& each) const {
    const auto figure = [&each](const char* name) { return number_text(each.figure(name).value_or(std::nan(""))); };
    return with_pruned(
        {std::to_string(line), in_code(each.point.id), std::string(sweep_reason_name(each.point.reason)),
         escaped(each.point.freeze)},
        escaped(pruning_text(each.point.pruning)),
        {number_text(each.point.learning_rate), std::to_string(each.point.draws), std::to_string(each.point.seed),
         std::to_string(each.point.steps), figure("loss"), figure("action_mse"), count_text(each.trainable_parameters),
         size_text(each.planned_peak_bytes), size_text(each.times.peak_resident_bytes), size_text(each.head_bytes),
         number_text(each.times.seconds), number_text(each.times.samples_per_second), escaped(each.cut),
         each.evaluator.is_null() ? "" : in_code(each.evaluator.dump()), escaped(each.error)});
  }

  [[nodiscard]] static std::string reading() {
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

  std::span<const SweepResult> results_;
  const ReportOptions& options_;
  std::vector<SweepCandidate> candidates_;
  std::optional<Pick> pick_;
  std::string stack_;
  std::vector<SweepPruning> prunings_;
  bool any_pruned_ = false;
};

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
  return Report(results, options).html();
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
                        chosen && same(each, chosen->picked) ? " *" : "");
  }
  for (const SweepResult& result : results) {
    if (result.failed()) text += fmt::format("{} ({}): {}\n", result.point.id, result.point.name(), result.error);
  }
  return text + (chosen ? "\n* " + chosen->reason() + "\n" : "\nNo configuration has results with every seed.\n");
}

}  // namespace thaw
