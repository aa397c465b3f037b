/// Trains a policy on a LeRobot dataset: reading, preprocessing, the line of stages, held-out evaluation.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "thaw/cache/prefix_cache.h"
#include "thaw/data/dataset.h"
#include "thaw/data/episode_split.h"
#include "thaw/freeze/plan.h"
#include "thaw/policy/policy.h"
#include "thaw/train/options.h"
#include "thaw/train/task.h"

namespace thaw {

/// Of the selected episodes: options.eval_episodes held out by number, or options.eval_split of every task.
/// @throws UsageError when a held-out episode is not selected, or nothing is left to train on
[[nodiscard]] EpisodeSplit choose_episodes(const LeRobotDataset& dataset, const TrainOptions& options);

/// Which dataset keys the policy reads at which offsets (spec: LeRobot's resolve_delta_timestamps), through the rename
/// map. A list of just {0} is left out: the plain item is the same.
[[nodiscard]] DeltaIndices policy_deltas(const Policy& policy, const LeRobotDataset& dataset);

/// Cameras of the dataset that the policy has an input for, by dataset key.
/// @throws MismatchError naming both lists when a camera of the policy is missing and `allow_missing` is false, or when
/// no camera fits
[[nodiscard]] std::vector<std::string> policy_cameras(const Policy& policy, const LeRobotDataset& dataset,
                                                      bool allow_missing);

/// Sets the rename map (when options give one) and the exact statistics of the training episodes, degenerate ranges
/// guarded (data/statistics.h), on the policy's processors. Returns what was degenerate. @throws MismatchError (action
/// or state width)
std::vector<std::string> fit_processors(Policy& policy, const LeRobotDataset& training, const TrainOptions& options);

class PolicyTask final : public TrainTask {
 public:
  /// Splits the episodes, sets the processors' statistics (unless `keep_statistics`: a resumed run has them from its
  /// checkpoint) and starts nothing yet.
  /// With a prefix cache (options.prefix) the plan must have digests (freeze/apply.h, add_digests), and the module must
  /// hold its frozen weights as it will train. Once the cache has all frames, weights that only it spares leave memory
  /// until they are needed again, at the latest when the task is destroyed.
  PolicyTask(std::shared_ptr<Policy> policy, const FreezePlan& plan, const LeRobotDataset& dataset,
             const TrainOptions& options, at::Device device, bool keep_statistics = false);
  ~PolicyTask() override;

  [[nodiscard]] at::Tensor loss(const MicroStep& micro_step) override;
  [[nodiscard]] bool is_in_two_parts() const override { return true; }
  /// The state at the gradient boundary, the draw, the actions.
  [[nodiscard]] StepInputs prepare(const MicroStep& micro_step) override;
  [[nodiscard]] at::Tensor loss_of(StepInputs inputs) override;
  [[nodiscard]] std::vector<std::int64_t> last_samples() const override;
  [[nodiscard]] std::optional<EvaluationResult> evaluate(std::int64_t step) override;
  [[nodiscard]] std::int64_t micro_batches_per_epoch() const override;
  [[nodiscard]] double data_wait_seconds() const override;
  /// Computes what the cache lacks of all views of the training frames and of the held-out frames. `progress` is told
  /// (prefixes done, prefixes in all) and returns whether to go on; what was computed is kept. Returns whether all is
  /// there.
  /// @throws UsageError when the options ask for no cache
  bool fill_cache(const std::function<bool(std::int64_t, std::int64_t)>& progress);
  /// nullopt without a cache.
  [[nodiscard]] std::optional<CacheStatistics> cache_statistics() const;
  /// Frames trained on and held out.
  [[nodiscard]] std::int64_t frames() const;
  /// What a full cache holds of them: one for each fixed view of a frame trained on (one where it has none), one for
  /// each frame held out.
  [[nodiscard]] std::int64_t prefixes() const;
  /// Frames trained on, and degenerate statistics found.
  [[nodiscard]] std::int64_t training_frames() const;
  [[nodiscard]] const std::vector<std::string>& warnings() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Training loss of a preprocessed batch: stages before `boundary` without grad, the others with grad.
[[nodiscard]] at::Tensor policy_loss(const Policy& policy, std::size_t boundary, const Batch& batch, const Draw& draw,
                                     Reduction reduction = Reduction::mean);

/// The same from `state` before stage `from`, which is not behind policy.first_draw_stage().
[[nodiscard]] at::Tensor policy_loss_from(const Policy& policy, PrefixState state, std::size_t from,
                                          std::size_t boundary, const Batch& batch, const Draw& draw,
                                          Reduction reduction = Reduction::mean);

}  // namespace thaw
