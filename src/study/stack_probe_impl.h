/// What is summed up about the streams of one stack, sample after sample.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "streams_impl.h"
#include "thaw/study/measure.h"

namespace thaw {

class StackProbe {
 public:
  StackProbe(BlockStack stack, const MeasureOptions& options) : stack_(std::move(stack)), options_(&options) {}

  void add_similarity(const Streams& streams, std::int64_t sample);
  /// The gradients of the loss by each part's states behind the blocks: gradients[part][s] belongs to state s, the one
  /// of state 0 is not read, an undefined one is 0.
  void add_gate_probe(const Streams& streams, const std::map<std::string, std::vector<at::Tensor>>& gradients);

  /// @throws UsageError when a group has too few rows for the unbiased estimate
  [[nodiscard]] StackMeasures measures();

 private:
  struct GroupSums {
    GroupSums(std::int64_t states, const MinibatchCkaOptions& options)
        : cka(states, options), concatenated(states), directions(states), sizes(states) {}
    std::int64_t rows = 0;
    MinibatchCka cka;
    ConcatenatedCka concatenated;
    Directions directions;
    DimensionSizes sizes;
  };

  void check_states(const Streams& streams);
  void add_group(const std::string& name, const std::vector<at::Tensor>& rows, std::int64_t sample);
  [[nodiscard]] std::vector<std::string> group_names() const;
  void add_group_measures(const std::string& name, StackMeasures& measures);
  [[nodiscard]] std::vector<MassiveDimension> massive(const std::string& group, const DimensionSizes& sizes) const;

  BlockStack stack_;
  const MeasureOptions* options_;
  std::int64_t states_ = 0;  ///< of the part that has most
  std::map<std::string, GroupSums> groups_;
  std::map<std::string, std::vector<double>> gates_;  ///< per group, per block: sum over samples of |…|
  std::map<std::string, std::size_t> gate_states_;    ///< states of the part that a group is of
  std::int64_t gate_samples_ = 0;
};

}  // namespace thaw
