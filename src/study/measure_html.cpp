// The measures as one HTML page without scripts, fonts or links to elsewhere.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "report_html_impl.h"
#include "thaw/study/measures.h"

namespace thaw {
namespace {

constexpr const char* kStyle = R"(
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:64rem;padding:1rem;background:Canvas;color:CanvasText}
h1{font-size:1.4rem}h2{font-size:1.2rem;margin-top:2rem}h3{font-size:1rem}
figure{margin:1rem 0;min-width:0}figcaption{font-size:.9rem}
svg{display:block}svg text{fill:CanvasText;font:11px system-ui,sans-serif}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid GrayText}
.bar{fill:#2f7fb8}
)";

/// 0 dark blue … 1 yellow, through green: brightness rises evenly, so that it reads without colour too.
std::string colour(double share) {
  constexpr std::array<std::array<double, 3>, 5> kStops{
      {{68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}}};
  const double place = std::clamp(share, 0.0, 1.0) * static_cast<double>(kStops.size() - 1);
  const auto lower = std::min(static_cast<std::size_t>(place), kStops.size() - 2);
  const double part = place - static_cast<double>(lower);
  std::array<int, 3> mixed{};
  for (std::size_t i = 0; i < mixed.size(); ++i) {
    mixed[i] = static_cast<int>(std::lround(kStops[lower][i] * (1.0 - part) + kStops[lower + 1][i] * part));
  }
  return fmt::format("#{:02x}{:02x}{:02x}", mixed[0], mixed[1], mixed[2]);
}

/// A drawing with its caption. What is wider than a phone is scrolled, by keyboard too, since smaller it could not be
/// read.
std::string figure(const std::string& caption, const std::string& label, std::int64_t width, std::int64_t height,
                   const std::string& content) {
  return fmt::format(
      R"(<figure><figcaption>{0}</figcaption><div class="scroll" tabindex="0" role="region" aria-label="{1}">)"
      R"(<svg viewBox="0 0 {2} {3}" width="{2}" height="{3}" role="img" aria-label="{1}">{4}</svg></div></figure>)",
      escaped(caption), escaped(label), width, height, content);
}

std::string state_name(std::int64_t state) { return state == 0 ? "in" : std::to_string(state - 1); }

/// `values` (S, S) between `least` and `most`; what is not a number stays blank.
std::string heat_map(const at::Tensor& values, double least, double most, const std::string& title) {
  constexpr int kCell = 22;
  constexpr int kMargin = 26;
  const std::int64_t size = values.size(0);
  const std::int64_t side = kMargin + size * kCell;
  std::string cells;
  for (std::int64_t i = 0; i < size; ++i) {
    cells += fmt::format(R"(<text x="{}" y="{}" text-anchor="end">{}</text>)", kMargin - 4, kMargin + i * kCell + 15,
                         state_name(i));
    cells += fmt::format(R"(<text x="{}" y="{}" text-anchor="middle">{}</text>)", kMargin + i * kCell + kCell / 2,
                         kMargin - 6, state_name(i));
    for (std::int64_t j = 0; j < size; ++j) {
      const double value = values[i][j].item<double>();
      if (!std::isfinite(value)) continue;
      cells +=
          fmt::format(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{} and {}: {:.4f}</title></rect>)",
                      kMargin + j * kCell, kMargin + i * kCell, kCell - 1, kCell - 1,
                      colour((value - least) / (most - least)), state_name(i), state_name(j), value);
    }
  }
  return figure(fmt::format("{}, from {:g} (dark) to {:g} (bright)", title, least, most),
                title + " of the stream before block 0 (in) and behind each block", side, side, cells);
}

std::string bars(const std::vector<double>& values, const std::string& title) {
  constexpr int kBar = 26;
  constexpr int kTallest = 90;
  double most = 0.0;
  for (const double value : values) most = std::isfinite(value) ? std::max(most, value) : most;
  if (values.empty() || !(most > 0.0)) return {};
  std::string marks;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto left = static_cast<int>(i) * kBar;
    marks += fmt::format(R"(<text x="{}" y="{}" text-anchor="middle">{}</text>)", left + kBar / 2, kTallest + 14, i);
    if (!std::isfinite(values[i])) continue;
    const double height = std::max(0.0, values[i]) / most * kTallest;
    marks += fmt::format(
        R"(<rect class="bar" x="{}" y="{:.1f}" width="{}" height="{:.1f}"><title>block {}: {:.4g}</title></rect>)",
        left + 3, kTallest - height, kBar - 6, height, i, values[i]);
  }
  return figure(fmt::format("{}, at most {:.4g}", title, most), title + " of each block",
                static_cast<std::int64_t>(values.size()) * kBar, kTallest + 18, marks);
}

std::string group_section(const StackMeasures& stack, const GroupMeasures& group) {
  std::string html = "<h3>" + escaped(stack.name + ": " + group.name) + "</h3><div class=\"maps\">";
  if (group.cosine.defined()) {
    html += heat_map(group.cka.trimmed, 0.0, 1.0, "CKA, unbiased, without massive dimensions");
    html += heat_map(group.cka.biased, 0.0, 1.0, "CKA, biased");
    html += heat_map(group.angular, 0.0, 0.5, "Angular distance");
    html += bars(group.block_influence(stack.blocks), "Block influence");
  }
  html += bars(group.gate_probe, "GateProbe");
  return html + "</div>";
}

std::string massive_section(const StackMeasures& stack) {
  if (stack.massive.empty()) return {};
  std::string rows;
  for (const MassiveDimension& massive : stack.massive) {
    rows += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.0f}</td><td>{:.0f}</td><td>{:.1f} %</td></tr>",
                        escaped(massive.group), state_name(massive.state), massive.dimension, massive.mean_square_ratio,
                        massive.variance_ratio, 100.0 * massive.variance_share);
  }
  return "<h3>" + escaped(stack.name) +
         ": massive dimensions</h3><p>They outweigh the others: cosines and the CKA that keeps them say little.</p>"
         "<div class=\"scroll\"><table><thead><tr><th>group</th><th>behind block</th><th>dimension</th><th>mean square "
         "/ median</th><th>variance / median</th><th>share of variance</th></tr></thead><tbody>" +
         rows + "</tbody></table></div>";
}

}  // namespace

std::string measure_html(const MeasureReport& report) {
  std::string body = fmt::format(
      "<h1>Blocks of a {} policy</h1><p>{} samples, seed {}. A redundant block may be left "
      "out or frozen; that says nothing about which of the others to train.</p>",
      escaped(report.type), report.samples, report.seed);
  for (const StackMeasures& stack : report.stacks) {
    body += fmt::format("<h2>{}, {} blocks</h2>", escaped(stack.name), stack.blocks);
    for (const GroupMeasures& group : stack.groups) body += group_section(stack, group);
    body += "<div class=\"maps\">" + bars(stack.relative_gradient, "Relative gradient norm") +
            bars(stack.fisher, "Fisher information") + bars(stack.divergence, "Divergence from the base") + "</div>";
    body += massive_section(stack);
  }
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\"><title>Blocks of a {} "
      "policy</title><style>{}</style></head><body>{}</body></html>\n",
      escaped(report.type), kStyle, body);
}

}  // namespace thaw
