#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "report_chart_impl.h"
#include "report_html_impl.h"

namespace thaw {
namespace {

constexpr double kWidth = 360.0;
constexpr double kHeight = 236.0;
constexpr double kLeft = 58.0;
constexpr double kRight = 14.0;
constexpr double kTop = 14.0;
constexpr double kBottom = 44.0;
constexpr double kLetter = 6.6;  // width of a letter at the font size of the labels
constexpr int kTicks = 4;

/// A range of values on a range of pixels.
class Axis {
 public:
  Axis(double low, double high, double from, double to) : from_(from), to_(to) {
    if (!(high > low)) {
      const double room = low == 0.0 ? 1.0 : std::abs(low) * 0.05;
      low -= room;
      high += room;
    }
    low_ = low;
    high_ = high;
  }
  [[nodiscard]] double at(double value) const { return from_ + (value - low_) / (high_ - low_) * (to_ - from_); }
  /// Round values within the range.
  [[nodiscard]] std::vector<double> ticks() const {
    const double rough = (high_ - low_) / kTicks;
    const double power = std::pow(10.0, std::floor(std::log10(rough)));
    double step = power;
    for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
      step = factor * power;
      if (step >= rough) break;
    }
    std::vector<double> values;
    for (double value = std::ceil(low_ / step) * step; value <= high_ + step * 1e-9; value += step) {
      values.push_back(std::abs(value) < step * 1e-9 ? 0.0 : value);
    }
    return values;
  }

 private:
  double from_, to_;
  double low_ = 0.0, high_ = 1.0;
};

std::string tick_text(double value) { return fmt::format("{:.4g}", value); }

/// The smallest and largest of `values` with room on both sides.
struct Range {
  double low = 0.0;
  double high = 1.0;
  static Range of(const std::vector<double>& values, double room) {
    std::vector<double> finite;
    std::copy_if(values.begin(), values.end(), std::back_inserter(finite), [](double v) { return std::isfinite(v); });
    if (finite.empty()) return {};
    const auto [low, high] = std::minmax_element(finite.begin(), finite.end());
    const double extra = (*high - *low) * room;
    return {*low - extra, *high + extra};
  }
};

std::string begin_svg(const std::string& id, const std::string& title, const std::string& description,
                      const char* role) {
  return fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"{}\" aria-labelledby=\"{}-t\" aria-describedby=\"{}-d\">"
      "<title id=\"{}-t\">{}</title><desc id=\"{}-d\">{}</desc>\n",
      kWidth, kHeight, role, id, id, id, escaped(title), id, escaped(description));
}

std::string frame(const std::string& x_title, const std::string& y_title) {
  return fmt::format(
      "<g class=\"frame\" aria-hidden=\"true\"><path class=\"axis\" d=\"M{} {}V{}H{}\"/>"
      "<text class=\"name\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>"
      "<text class=\"name\" transform=\"translate(12 {}) rotate(-90)\" text-anchor=\"middle\">{}</text></g>\n",
      kLeft, kTop, kHeight - kBottom, kWidth - kRight, (kLeft + kWidth - kRight) / 2, kHeight - 8, escaped(x_title),
      (kTop + kHeight - kBottom) / 2, escaped(y_title));
}

std::string y_ticks(const Axis& y) {
  std::string svg = "<g class=\"ticks\" aria-hidden=\"true\">";
  for (const double value : y.ticks()) {
    svg += fmt::format(
        "<path class=\"grid\" d=\"M{} {:.1f}H{}\"/><text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", kLeft,
        y.at(value), kWidth - kRight, kLeft - 5, y.at(value) + 4, tick_text(value));
  }
  return svg + "</g>\n";
}

std::string x_tick(double place, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", place, kHeight - kBottom + 16,
                     escaped(text));
}

std::string x_ticks(const Axis& x) {
  std::string svg = "<g class=\"ticks\" aria-hidden=\"true\">";
  for (const double value : x.ticks()) svg += x_tick(x.at(value), tick_text(value));
  return svg + "</g>\n";
}

/// Names of the places 0, 1, …: as many of them as have room.
std::string x_names(const Axis& x, const std::vector<std::string>& names) {
  std::size_t longest = 1;
  for (const std::string& name : names) longest = std::max(longest, name.size());
  const double room = (x.at(1) - x.at(0)) / kLetter;
  const auto every = static_cast<std::size_t>(std::ceil((static_cast<double>(longest) + 1.0) / std::max(room, 1e-6)));
  std::string svg = "<g class=\"ticks\" aria-hidden=\"true\">";
  for (std::size_t i = 0; i < names.size(); i += every) svg += x_tick(x.at(static_cast<double>(i)), names[i]);
  return svg + "</g>\n";
}

constexpr std::array<const char*, 4> kShapes{"●", "■", "▲", "◆"};

/// Where a mark is drawn: attributes of its element, with `radius` as its half width.
std::string dot_svg(const ChartMark& mark, double x, double y, double radius) {
  const std::string name = fmt::format("class=\"dot\" role=\"img\" aria-label=\"{}\"", escaped(mark.text));
  switch (mark.shape % kShapes.size()) {
    case 1:
      return fmt::format("<path {} d=\"M{:.1f} {:.1f}h{}v{}h-{}z\"/>", name, x - radius, y - radius, 2 * radius,
                         2 * radius, 2 * radius);
    case 2:
      return fmt::format("<path {} d=\"M{:.1f} {:.1f}l{} {}h-{}z\"/>", name, x, y - radius, radius, 2 * radius,
                         2 * radius);
    case 3:
      return fmt::format("<path {} d=\"M{:.1f} {:.1f}l{} {}l-{} {}l-{} -{}z\"/>", name, x, y - radius, radius, radius,
                         radius, radius, radius, radius);
    default:
      return fmt::format("<circle {} cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>", name, x, y, radius);
  }
}

std::string mark_svg(const ChartMark& mark, const Axis& x, const Axis& y) {
  const double px = x.at(mark.x);
  std::string svg = fmt::format("<a href=\"#{}\" class=\"mark{}{}\"><title>{}</title>", mark.link,
                                mark.chosen ? " chosen" : "", mark.faint ? " faint" : "", escaped(mark.text));
  if (mark.spread) {
    svg += fmt::format("<path class=\"interval\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>", px, y.at(mark.y + *mark.spread),
                       y.at(mark.y - *mark.spread));
  }
  for (const double single : mark.singles) {
    svg += fmt::format("<circle class=\"single\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2\"/>", px, y.at(single));
  }
  svg += dot_svg(mark, px, y.at(mark.y), mark.chosen ? 6 : 5);
  if (!mark.label.empty()) {
    // A front falls from left to right: above right of a mark and below left of it there is room.
    const bool left = px > kWidth - kRight - kLetter * (static_cast<double>(mark.label.size()) + 2.0);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" aria-hidden=\"true\">{}</text>",
                       px + (left ? -8.0 : 7.0), y.at(mark.y) + (left ? 14.0 : -6.0), left ? "end" : "start",
                       escaped(mark.label));
  }
  return svg + "</a>\n";
}

std::string front_svg(const Chart& chart, const Axis& x, const Axis& y) {
  std::string path;
  for (const std::size_t index : pareto_front(chart.marks)) {
    const ChartMark& mark = chart.marks[index];
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x.at(mark.x), y.at(mark.y));
  }
  return fmt::format("<path class=\"front\" d=\"{}\" aria-hidden=\"true\"/>\n", path);
}

std::string limit_svg(const Chart& chart, const Axis& y) {
  const double level = y.at(*chart.limit);
  return fmt::format(
      "<g class=\"limit\" aria-hidden=\"true\"><path d=\"M{} {:.1f}H{}\"/>"
      "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text></g>\n",
      kLeft, level, kWidth - kRight, kWidth - kRight, level - 4, escaped(chart.limit_text));
}

std::vector<double> heights(const Chart& chart) {
  std::vector<double> all;
  if (chart.limit) all.push_back(*chart.limit);
  for (const ChartMark& mark : chart.marks) {
    all.push_back(mark.y + mark.spread.value_or(0.0));
    all.push_back(mark.y - mark.spread.value_or(0.0));
    all.insert(all.end(), mark.singles.begin(), mark.singles.end());
  }
  return all;
}

Axis x_axis(const Chart& chart) {
  if (!chart.categories.empty()) {
    return {-0.5, static_cast<double>(chart.categories.size()) - 0.5, kLeft, kWidth - kRight};
  }
  std::vector<double> places;
  for (const ChartMark& mark : chart.marks) places.push_back(mark.x);
  const Range range = Range::of(places, 0.08);
  return {range.low, range.high, kLeft, kWidth - kRight};
}

Axis y_axis(const Range& range) { return {range.low, range.high, kHeight - kBottom, kTop}; }

std::string polyline(const LineSeries& line, const Axis& x, const Axis& y) {
  std::string path;
  bool pen_up = true;
  for (std::size_t i = 0; i < line.values.size(); ++i) {
    if (!std::isfinite(line.values[i])) {
      pen_up = true;
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f}", pen_up ? "M" : "L", x.at(static_cast<double>(i + 1)), y.at(line.values[i]));
    pen_up = false;
  }
  return path;
}

}  // namespace

std::string mark_shape(std::size_t shape) { return kShapes.at(shape % kShapes.size()); }

std::vector<std::size_t> pareto_front(const std::vector<ChartMark>& marks) {
  std::vector<std::size_t> order(marks.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&marks](std::size_t a, std::size_t b) {
    return std::pair(marks[a].x, marks[a].y) < std::pair(marks[b].x, marks[b].y);
  });
  std::vector<std::size_t> front;
  for (const std::size_t index : order) {
    if (front.empty() || marks[index].y < marks[front.back()].y) front.push_back(index);
  }
  return front;
}

std::string chart_svg(const Chart& chart) {
  const Axis x = x_axis(chart);
  const Axis y = y_axis(Range::of(heights(chart), 0.1));
  std::string svg = begin_svg(chart.id, chart.title, chart.description, "group");
  svg += y_ticks(y) + (chart.categories.empty() ? x_ticks(x) : x_names(x, chart.categories));
  svg += frame(chart.x_title, chart.y_title);
  if (chart.limit) svg += limit_svg(chart, y);
  if (chart.front) svg += front_svg(chart, x, y);
  for (const ChartMark& mark : chart.marks) svg += mark_svg(mark, x, y);
  return svg + "</svg>\n";
}

std::string line_chart_svg(const LineChart& chart) {
  std::vector<double> all{0.0};
  std::size_t longest = 1;
  for (const LineSeries& line : chart.lines) {
    all.insert(all.end(), line.values.begin(), line.values.end());
    longest = std::max(longest, line.values.size());
  }
  const Axis x(1.0, static_cast<double>(longest), kLeft, kWidth - kRight);
  const Axis y = y_axis(Range::of(all, 0.05));
  std::string svg = begin_svg(chart.id, chart.title, chart.description, "img");
  svg += y_ticks(y) + x_ticks(x) + frame(chart.x_title, chart.y_title);
  double legend = kHeight - kBottom - 10.0 - 15.0 * (static_cast<double>(chart.lines.size()) - 1.0);
  for (const LineSeries& line : chart.lines) {
    const char* kind = line.chosen ? "line chosen" : "line";
    svg += fmt::format(
        "<path class=\"{}\" d=\"{}\"/><path class=\"{}\" d=\"M{} {}h18\"/><text x=\"{}\" y=\"{}\">{}</text>\n", kind,
        polyline(line, x, y), kind, kLeft + 8, legend - 4, kLeft + 31, legend, escaped(line.name));
    legend += 15;
  }
  return svg + "</svg>\n";
}

std::string bar_chart_svg(const BarChart& chart) {
  std::vector<double> all = chart.values;
  all.push_back(0.0);
  const auto count = static_cast<double>(chart.values.size());
  const Axis x(-0.5, std::max(count, 1.0) - 0.5, kLeft, kWidth - kRight);
  const Axis y = y_axis(Range::of(all, 0.05));
  const double width = std::max((kWidth - kLeft - kRight) / std::max(count, 1.0) * 0.7, 1.0);
  std::string svg = begin_svg(chart.id, chart.title, chart.description, "img");
  std::vector<std::string> names;
  for (std::size_t i = 0; i < chart.values.size(); ++i) names.push_back(std::to_string(i));
  svg += y_ticks(y) + x_names(x, names) + frame(chart.x_title, chart.y_title);
  for (std::size_t i = 0; i < chart.values.size(); ++i) {
    if (!std::isfinite(chart.values[i])) continue;
    const double top = std::min(y.at(chart.values[i]), y.at(0.0));
    svg +=
        fmt::format("<rect class=\"bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>",
                    x.at(static_cast<double>(i)) - width / 2, top, width, std::abs(y.at(chart.values[i]) - y.at(0.0)));
  }
  return svg + "</svg>\n";
}

}  // namespace thaw
