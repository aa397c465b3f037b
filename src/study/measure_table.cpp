#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>

#include "thaw/study/measures.h"

namespace thaw {
namespace {

std::string cell(const std::vector<double>& values, std::int64_t block) {
  if (values.empty()) return fmt::format("{:>11}", "");
  const double value = values.at(static_cast<std::size_t>(block));
  return std::isfinite(value) ? fmt::format("{:>11.4g}", value) : fmt::format("{:>11}", "-");
}

/// Entry (block, block + 1) of a matrix of states.
std::string cell(const at::Tensor& matrix, std::int64_t block) {
  if (!matrix.defined() || block + 1 >= matrix.size(0)) return fmt::format("{:>11}", "-");
  return fmt::format("{:>11.4f}", matrix[block][block + 1].item<double>());
}

std::string similarity_table(const StackMeasures& stack, const GroupMeasures& group) {
  std::string text = fmt::format("  {} ({} rows; CKA of {} rows in {} minibatches)\n", group.name, group.rows,
                                 group.cka.rows, group.cka.minibatches) +
                     fmt::format("  {:>5}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}\n", "block", "CKA", "unbiased", "trimmed",
                                 "influence", "angle", group.gate_probe.empty() ? "" : "gate");
  const std::vector<double> influence = group.block_influence(stack.blocks);
  for (std::int64_t block = 0; block < stack.blocks; ++block) {
    const bool scored = block < static_cast<std::int64_t>(group.concatenated.size());
    text += fmt::format("  {:>5}{}{}{}{}{}{}\n", block,
                        scored ? cell(group.concatenated, block) : fmt::format("{:>11}", "-"),
                        cell(group.cka.unbiased, block), cell(group.cka.trimmed, block), cell(influence, block),
                        cell(group.angular, block), cell(group.gate_probe, block));
  }
  return text;
}

std::string gate_table(const StackMeasures& stack, const GroupMeasures& group) {
  std::string text = fmt::format("  {}\n  {:>5}{:>11}\n", group.name, "block", "gate");
  for (std::int64_t block = 0; block < stack.blocks; ++block) {
    text += fmt::format("  {:>5}{}\n", block, cell(group.gate_probe, block));
  }
  return text;
}

std::string weight_table(const StackMeasures& stack) {
  if (stack.relative_gradient.empty() && stack.divergence.empty()) return {};
  std::string text = fmt::format("  {:>5}{:>11}{:>11}{:>11}\n", "block", "gradient", "Fisher", "divergence");
  for (std::int64_t block = 0; block < stack.blocks; ++block) {
    text += fmt::format("  {:>5}{}{}{}\n", block, cell(stack.relative_gradient, block), cell(stack.fisher, block),
                        cell(stack.divergence, block));
  }
  return text;
}

std::string massive_lines(const StackMeasures& stack) {
  std::string text;
  for (const MassiveDimension& massive : stack.massive) {
    text += fmt::format(
        "  massive: group {}, {}, dimension {}: mean square {:.0f} x and variance {:.0f} x the median, {:.0f} % of all "
        "variance\n",
        massive.group, massive.state == 0 ? "before block 0" : fmt::format("behind block {}", massive.state - 1),
        massive.dimension, massive.mean_square_ratio, massive.variance_ratio, 100.0 * massive.variance_share);
  }
  return text;
}

}  // namespace

std::string measure_table(const MeasureReport& report) {
  std::string text = fmt::format("{}: {} samples\n", report.type, report.samples);
  for (const StackMeasures& stack : report.stacks) {
    text += fmt::format("{}, {} blocks\n", stack.name, stack.blocks);
    for (const GroupMeasures& group : stack.groups) {
      if (group.cosine.defined()) {
        text += similarity_table(stack, group);
      } else if (!group.gate_probe.empty()) {
        text += gate_table(stack, group);
      }
    }
    text += weight_table(stack) + massive_lines(stack);
  }
  return text;
}

}  // namespace thaw
