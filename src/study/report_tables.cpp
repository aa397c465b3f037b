#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "report_data_impl.h"
#include "report_html_impl.h"

namespace thaw {
namespace {

using Cells = std::vector<std::string>;
std::string row(const char* tag, const Cells& cells) {
  std::string html;
  for (const std::string& cell : cells) html += fmt::format("<{}>{}</{}>", tag, cell, tag);
  return html;
}
std::string heads(const Cells& cells) {
  std::string html = "<thead><tr>";
  for (const std::string& cell : cells) html += fmt::format("<th scope=\"col\">{}</th>", cell);
  return html + "</tr></thead>\n";
}
std::string begin_table(const std::string& id, const std::string& title) {
  return fmt::format(
      "<section aria-labelledby=\"{}\"><h2 id=\"{}\">{}</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
      "aria-labelledby=\"{}\"><table>\n",
      id, id, title, id);
}

std::string in_code(const std::string& text) { return fmt::format("<code>{}</code>", escaped(text)); }

/// "2 (expert 1, 2; language 1, 2)", or nothing for a whole policy.
std::string pruning_text(const SweepPruning& pruning) {
  if (pruning.count == 0) return {};
  std::vector<std::string> lists;
  for (const auto& [stack, blocks] : pruning.removed) {
    lists.push_back(fmt::format("{} {}", stack, fmt::join(blocks, ", ")));
  }
  return fmt::format("{} ({})", pruning.count, fmt::join(lists, "; "));
}

class Tables {
 public:
  explicit Tables(const ReportData& data) : data_(data) {}

  [[nodiscard]] std::string configurations() const {
    std::string html = begin_table("configurations", "Configurations");
    html += heads(with_pruned({"#", "freeze"}, "pruned",
                              {"rate", "draws", escaped(figure_title(data_.options.figure)), "seeds",
                               "trainable parameters", "planned peak", "seconds", "samples/s", "results"}));
    std::size_t number = 0;
    for (const SweepCandidate& each : data_.candidates) {
      ++number;
      const bool chosen = data_.is_picked(each);
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

  [[nodiscard]] std::string lines() const {
    std::string html = begin_table("results", "Every training: the lines of results.jsonl");
    html += heads(
        with_pruned({"line", "id", "why", "freeze"}, "pruned",
                    {"rate", "draws", "seed", "steps", "held-out loss", "action mse", "trainable parameters",
                     "planned peak", "process peak", "head", "seconds", "samples/s", "cache", "evaluator", "error"}));
    std::size_t line = 0;
    for (const SweepResult& each : data_.results) {
      html += fmt::format("<tr id=\"r-{}\">", escaped(each.point.id));
      html += row("td", line_cells(++line, each)) + "</tr>\n";
    }
    return html + "</table></div></section>\n";
  }

 private:
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

  /// Cells of a row, `pruned` among them where some base of the sweep is.
  [[nodiscard]] Cells with_pruned(Cells before, const std::string& pruned, const Cells& after) const {
    if (data_.any_pruned) before.push_back(pruned);
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

  const ReportData& data_;
};

}  // namespace

std::string report_tables(const ReportData& data) {
  const Tables tables(data);
  return tables.configurations() + tables.lines();
}

}  // namespace thaw
