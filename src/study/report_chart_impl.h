// Charts as inline SVG, 360 units wide so that their text is readable on a phone.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace thaw {

struct ChartMark {
  double x = 0.0;
  double y = 0.0;
  std::optional<double> spread;  ///< half the height of its interval
  std::vector<double> singles;   ///< what it is the mean of
  std::string label;             ///< beside it; empty: none
  std::string link;              ///< id of the element that it leads to
  std::string text;              ///< what it says, for the tooltip and a screen reader
  bool chosen = false;
  bool faint = false;     ///< one of several at its place that is not the best
  std::size_t shape = 0;  ///< of mark_shape(): what kind it is of
};

/// The letter that looks like a mark of this shape: a circle, a square, a triangle, a diamond, then again.
[[nodiscard]] std::string mark_shape(std::size_t shape);

struct Chart {
  std::string id;
  std::string title;
  std::string description;  ///< what there is to see, in a sentence or two
  std::string x_title;
  std::string y_title;
  std::vector<ChartMark> marks;
  std::vector<std::string> categories;  ///< names of x = 0, 1, …; empty: x is a number
  std::optional<double> limit;          ///< a level to draw across
  std::string limit_text;
  bool front = false;  ///< draw the Pareto front: less is better in both
};
[[nodiscard]] std::string chart_svg(const Chart& chart);

/// Lines over positions 1, 2, …
struct LineSeries {
  std::string name;
  std::vector<double> values;  ///< NaN: a gap
  bool chosen = false;
};
struct LineChart {
  std::string id, title, description, x_title, y_title;
  std::vector<LineSeries> lines;
};
[[nodiscard]] std::string line_chart_svg(const LineChart& chart);

/// One bar for each value, 0 first.
struct BarChart {
  std::string id, title, description, x_title, y_title;
  std::vector<double> values;
};
[[nodiscard]] std::string bar_chart_svg(const BarChart& chart);

/// Indices of the marks that no other betters in both, by rising x.
[[nodiscard]] std::vector<std::size_t> pareto_front(const std::vector<ChartMark>& marks);

}  // namespace thaw
