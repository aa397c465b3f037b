#include <fmt/format.h>

#include <cmath>

#include "report_html_impl.h"

namespace thaw {

std::string escaped(std::string_view text) {
  std::string result;
  for (const char letter : text) {
    switch (letter) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += letter;
    }
  }
  return result;
}

std::string number_text(double value) { return std::isfinite(value) ? fmt::format("{:.5g}", value) : "–"; }

std::string count_text(std::int64_t count) {
  std::string digits = std::to_string(count);
  for (auto place = static_cast<std::ptrdiff_t>(digits.size()) - 3; place > (count < 0 ? 1 : 0); place -= 3) {
    digits.insert(static_cast<std::size_t>(place), 1, ',');
  }
  return digits;
}

std::string size_text(const std::optional<std::int64_t>& bytes) {
  if (!bytes) return "–";
  const auto size = static_cast<double>(*bytes);
  if (size >= 1e9) return fmt::format("{:.3g} GB", size / 1e9);
  if (size >= 1e6) return fmt::format("{:.3g} MB", size / 1e6);
  return fmt::format("{:.3g} kB", size / 1e3);
}

std::string figure_title(const std::string& figure) {
  constexpr std::string_view kEvaluator = "evaluator.";
  if (figure.starts_with('-')) return fmt::format("negative {}", figure_title(figure.substr(1)));
  if (figure.starts_with(kEvaluator)) return "evaluator's " + figure.substr(kEvaluator.size());
  return "held-out " + figure;
}

}  // namespace thaw
