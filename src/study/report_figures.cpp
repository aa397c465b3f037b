#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "report_chart_impl.h"
#include "report_data_impl.h"
#include "report_html_impl.h"

namespace thaw {
namespace {

std::string with_figure(const std::string& svg, const std::string& caption) {
  return fmt::format("<figure>{}<figcaption>{}</figcaption></figure>\n", svg, escaped(caption));
}

class Charts {
 public:
  explicit Charts(const ReportData& data) : data_(data) {}

  [[nodiscard]] std::string html() const {
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

 private:
  [[nodiscard]] std::vector<SweepCandidate> measured() const {
    std::vector<SweepCandidate> result;
    std::copy_if(data_.candidates.begin(), data_.candidates.end(), std::back_inserter(result),
                 [](const SweepCandidate& candidate) { return !candidate.errors.empty(); });
    return result;
  }

  [[nodiscard]] std::string error_chart(const std::vector<SweepCandidate>& drawn) const {
    Chart chart{.id = "error", .title = fmt::format("{} by configuration", figure_title(data_.options.figure))};
    chart.description =
        "Each large dot is the mean over seeds with one standard error to both sides, each small dot "
        "one seed. The line is the limit that the pick must keep.";
    chart.x_title =
        data_.stack.empty() ? "configuration (row of the table)" : "last blocks of " + data_.stack + " that train";
    chart.y_title = figure_title(data_.options.figure);
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
    if (data_.pick) {
      chart.limit = data_.pick->limit;
      chart.limit_text = fmt::format("limit {}", number_text(data_.pick->limit));
    }
    return with_figure(chart_svg(chart), chart.title +
                                             ": mean, standard error and every seed. The axis does not begin "
                                             "at zero." +
                                             shapes());
  }

  /// Bases stand side by side over one number of blocks, and apart where a place is a row of the table.
  [[nodiscard]] std::string place_of(const SweepCandidate& candidate) const {
    return data_.stack.empty() ? candidate.name() : candidate.freeze;
  }

  /// From the middle of a place, in places.
  [[nodiscard]] double shift_of(const SweepCandidate& candidate) const {
    constexpr double kRoom = 0.6;
    if (data_.stack.empty()) return 0.0;
    const auto bases = static_cast<double>(data_.prunings.size());
    return (static_cast<double>(shape_of(candidate)) - (bases - 1.0) / 2.0) * kRoom / bases;
  }

  [[nodiscard]] std::size_t shape_of(const SweepCandidate& candidate) const {
    return static_cast<std::size_t>(std::find(data_.prunings.begin(), data_.prunings.end(), candidate.pruning) -
                                    data_.prunings.begin());
  }

  /// What each shape of marks stands for; nothing where there is one.
  [[nodiscard]] std::string shapes() const {
    if (!data_.any_pruned) return {};
    std::vector<std::string> kinds;
    for (std::size_t i = 0; i < data_.prunings.size(); ++i) {
      kinds.push_back(fmt::format(
          "{} {}", mark_shape(i),
          data_.prunings[i].count == 0 ? "the whole policy" : fmt::format("{} pruned", data_.prunings[i].count)));
    }
    return fmt::format(" {}.", fmt::join(kinds, ", "));
  }

  [[nodiscard]] std::string cost_chart(const std::vector<SweepCandidate>& drawn, const std::string& id,
                                       const std::string& x_title,
                                       const std::function<double(const SweepCandidate&)>& cost) const {
    Chart chart{.id = id, .x_title = x_title, .y_title = figure_title(data_.options.figure), .front = true};
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
    text += fmt::format(": {} {}{}", figure_title(data_.options.figure), number_text(candidate.mean),
                        spread_text(candidate));
    return {.y = candidate.mean,
            .label = short_name(candidate),
            .link = data_.link_of(candidate),
            .text = std::move(text),
            .chosen = data_.is_picked(candidate),
            .shape = shape_of(candidate)};
  }

  /// Fewest trained blocks first or, where configurations differ in more, fewest trained parameters.
  [[nodiscard]] std::vector<const SweepCandidate*> by_size(const std::vector<SweepCandidate>& candidates) const {
    std::vector<const SweepCandidate*> order;
    for (const SweepCandidate& candidate : candidates) order.push_back(&candidate);
    const auto size = [this](const SweepCandidate* each) {
      return data_.stack.empty() ? each->trainable_parameters : each->blocks.begin()->second;
    };
    std::stable_sort(order.begin(), order.end(),
                     [&size](const SweepCandidate* a, const SweepCandidate* b) { return size(a) < size(b); });
    return order;
  }

  /// The number of blocks, a short freeze, or the number of its row.
  [[nodiscard]] std::string short_name(const SweepCandidate& candidate) const {
    constexpr std::size_t kShort = 6;
    if (!data_.stack.empty()) return std::to_string(candidate.blocks.begin()->second);
    return candidate.name().size() <= kShort ? candidate.name() : fmt::format("#{}", data_.row_of(candidate) + 1);
  }

  /// Open-loop action error of the pick, and of the best when it is another, by step of the chunk.
  [[nodiscard]] std::string horizon_chart() const {
    if (!data_.pick) return {};
    LineChart chart{.id = "horizon",
                    .title = "Open-loop action error by step of the chunk",
                    .description =
                        "Mean squared error of the sampled chunk against the recorded one, normalised, mean "
                        "over seeds.",
                    .x_title = "step of the chunk",
                    .y_title = "action mse"};
    add_horizon(chart, data_.pick->picked, "pick: " + data_.pick->picked.name(), true);
    if (!same_configuration(data_.pick->best, data_.pick->picked))
      add_horizon(chart, data_.pick->best, "best: " + data_.pick->best.name(), false);
    if (chart.lines.empty()) return {};
    return with_figure(line_chart_svg(chart), chart.title + ". " + chart.description);
  }

  void add_horizon(LineChart& chart, const SweepCandidate& candidate, const std::string& name, bool chosen) const {
    std::vector<double> sums;
    for (const std::string& id : candidate.ids) {
      const SweepResult* result = find_result(data_.results, id);
      const auto& series = result->held_out->series;
      const auto found = series.find("action_mse_by_step");
      if (found == series.end()) return;
      sums.resize(found->second.size(), 0.0);
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += found->second[i];
    }
    for (double& sum : sums) sum /= static_cast<double>(candidate.ids.size());
    if (sums.size() > 1) chart.lines.push_back({.name = name, .values = std::move(sums), .chosen = chosen});
  }

  const ReportData& data_;
};

}  // namespace

std::string report_charts(const ReportData& data) { return Charts(data).html(); }

std::string importance_charts(const ReportData& data) {
  if (data.options.importance.empty()) return {};
  std::string html =
      "<section aria-labelledby=\"importance\"><h2 id=\"importance\">Importance of blocks</h2>"
      "<div class=\"charts\">\n";
  std::size_t number = 0;
  for (const BlockImportance& each : data.options.importance) {
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

}  // namespace thaw
