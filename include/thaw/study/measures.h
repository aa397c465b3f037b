/// What each block does, measured on a few samples: how redundant it is (may it be left out?) and how plastic (is it
/// worth training?). Two different questions: a redundant block is a candidate to freeze or to prune, and that says
/// nothing about its neighbours.
///
/// Legend: L blocks of a stack, S states of its stream (before the first block, behind each whose output is read).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/study/similarity.h"

namespace thaw {

/// A group of rows of one stack: "image", "text", "state", "action", or "all", every row that is no padding (and goes
/// through as many blocks as any does: what the last block would make of a state's row, say, may be read by nobody).
struct GroupMeasures {
  std::string name;
  std::int64_t rows = 0;             ///< all of them, over all samples
  CkaMatrices cka;                   ///< of a subset of rows drawn from each sample
  std::vector<double> concatenated;  ///< S - 1: CKA of successive states, rows of all samples in one matrix
  at::Tensor cosine;                 ///< (S, S) float64
  at::Tensor angular;                ///< (S, S) float64
  std::vector<double> gate_probe;    ///< L; empty when gradients were not asked for

  /// 1 - the mean cosine over each block, L; NaN where its output is read by nobody.
  [[nodiscard]] std::vector<double> block_influence(std::int64_t blocks) const;
};

/// A dimension that outweighs the others so much that cosines and CKA see little else.
struct MassiveDimension {
  std::string group;
  std::int64_t state = 0;  ///< 0: before block 0
  std::int64_t dimension = 0;
  double mean_square_ratio = 0.0;  ///< to the median dimension
  double variance_ratio = 0.0;     ///< likewise
  double variance_share = 0.0;     ///< of the variance of all dimensions
};

struct StackMeasures {
  std::string name;
  std::int64_t blocks = 0;
  std::vector<GroupMeasures> groups;  ///< "all" first; empty when only weights were looked at
  std::vector<MassiveDimension> massive;
  std::vector<double> relative_gradient;  ///< ||gradient|| / ||weights|| of a batch, mean over batches; L, or empty
  std::vector<double> fisher;             ///< mean over samples of the squared gradient, summed over weights; L
  std::vector<double> divergence;         ///< ||weights - base|| / ||base||; L, or empty without a base

  /// @throws UsageError with the nearest names
  [[nodiscard]] const GroupMeasures& group(const std::string& name) const;
};

struct MeasureReport {
  std::string type;  ///< of the policy, or "module"
  std::int64_t samples = 0;
  std::uint64_t seed = 0;
  std::vector<std::int64_t> frames;  ///< of the dataset, where there is one
  std::vector<StackMeasures> stacks;

  /// @throws UsageError with the nearest names
  [[nodiscard]] const StackMeasures& stack(const std::string& name) const;
  /// Numbers that are not finite are null. "importance" holds measure_series() as thaw sweep --importance takes it.
  [[nodiscard]] Json to_json() const;
};

/// One measure of the blocks of a stack as plain numbers, for charts: more is more important. A block whose output is
/// read by nobody has 0.
struct MeasureSeries {
  std::string stack;
  /// "block influence", "CKA distance" (1 - trimmed CKA over the block, the mean over the groups), "GateProbe",
  /// "relative gradient norm", "Fisher information", "divergence"
  std::string measure;
  std::vector<double> values;  ///< one a block
};

/// What the report has, stack by stack.
[[nodiscard]] std::vector<MeasureSeries> measure_series(const MeasureReport& report);

/// A table per stack: a line a block.
[[nodiscard]] std::string measure_table(const MeasureReport& report);

/// One HTML page that needs nothing else: similarities as heat maps and measures as bars, per stack and group.
[[nodiscard]] std::string measure_html(const MeasureReport& report);

}  // namespace thaw
