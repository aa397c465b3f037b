// Measures a policy on frames it is not trained on: the same frames, noise and time at every evaluation.
#pragma once

#include <memory>
#include <vector>

#include "prefix_source_impl.h"
#include "thaw/data/dataset.h"
#include "thaw/policy/policy.h"
#include "thaw/train/options.h"
#include "thaw/train/task.h"

namespace thaw {

class HeldOut {
 public:
  /// At most options.eval_samples frames of `dataset`, spread evenly. `prefixes` makes or finds the frozen prefix.
  HeldOut(std::shared_ptr<const Policy> policy, LeRobotDataset dataset, std::shared_ptr<PrefixSource> prefixes,
          const TrainOptions& options);
  /// Metrics "action_mse" (normalised) and "action_mse_robot" (robot units squared): sampled chunk against the recorded
  /// one, over steps that are not padding.
  [[nodiscard]] EvaluationResult measure() const;
  [[nodiscard]] const LeRobotDataset& dataset() const noexcept { return dataset_; }

 private:
  struct Sums;
  void add_batch(const std::vector<std::int64_t>& positions, Sums& sums) const;

  std::shared_ptr<const Policy> policy_;
  LeRobotDataset dataset_;
  std::shared_ptr<PrefixSource> prefixes_;
  std::vector<std::int64_t> positions_;
  std::int64_t batch_size_;
  std::uint64_t seed_;
};

}  // namespace thaw
