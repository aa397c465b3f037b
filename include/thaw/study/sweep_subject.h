/// What a sweep trains again and again: a policy on a dataset, or any module with a task of its own. All points share
/// one base in memory, which is as it was after every one of them, bit for bit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "thaw/data/dataset.h"
#include "thaw/policy/policy.h"
#include "thaw/study/sweep_grid.h"
#include "thaw/study/sweep_results.h"
#include "thaw/train/options.h"
#include "thaw/train/task.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// What is told while a point trains: the step it is at, and the mean loss of its last log window.
using SweepWatcher = std::function<void(std::int64_t step, double loss)>;

class SweepSubject {
 public:
  virtual ~SweepSubject() = default;

  /// All freezes of the grid, base by base. @throws UsageError as sweep_freezes
  [[nodiscard]] virtual std::vector<SweepFreeze> freezes(const SweepGrid& grid) = 0;
  /// All that decides a result beside the point: base, data, options. Only what changes it may be in here.
  [[nodiscard]] virtual Json setting() const = 0;
  /// Peak rate of a point where the grid says none.
  [[nodiscard]] virtual double learning_rate() const = 0;
  /// Optimizer steps of a point at full length.
  [[nodiscard]] virtual std::int64_t steps() const = 0;
  /// Told all freezes once, before the first point: to choose what all of them can share.
  virtual void prepare(std::span<const SweepFreeze> freezes) = 0;
  /// Trains one point, writes its head into `head_folder`, and leaves the base as it was. nullopt: a signal stopped it.
  /// @throws what training throws; the base is as it was then, too
  virtual std::optional<SweepResult> train(const SweepPoint& point, const SweepFreeze& freeze,
                                           const std::filesystem::path& head_folder, const SweepWatcher& watcher) = 0;
};

/// A module and the task that a point trains it with: a pure function of the point. Options hold for every point,
/// with the point's rate, seed, draws and steps. The module is left with the base's weights.
[[nodiscard]] std::unique_ptr<SweepSubject> sweep_module(
    std::shared_ptr<torch::nn::Module> module, std::function<std::unique_ptr<TrainTask>(const SweepPoint&)> make_task,
    TrainOptions options);

/// A policy on a dataset. Every point equals a training of its own with these options, the point's values in their
/// place, and the cache at the cut that its line names. A point that sees every frame twice or more has the deepest cut
/// that its own freeze allows, as a training of its own would; points of the same freeze share the cache. A shorter one
/// has the deepest cut of the kind asked for at which nothing trains in any point that allows one at all, and all of
/// those share it. A cache is filled before the first point unless that sees a small part of the frames alone.
/// @throws UsageError (options without held-out episodes), MismatchError
[[nodiscard]] std::unique_ptr<SweepSubject> sweep_policy(std::shared_ptr<Policy> policy, const LeRobotDataset& dataset,
                                                         TrainOptions options);

/// A policy that points of a sweep begin with: whole, or without some of its blocks.
struct SweepBaseSource {
  SweepPruning pruning;
  std::function<std::shared_ptr<Policy>()> load;  ///< gives the same at every call
};

/// Several policies, one of them in memory at a time. Points of each, ids included, are those that sweep_policy() of it
/// alone would train; its freezes count the blocks that it has. setting() is that of the first.
/// @throws UsageError without a base; as sweep_policy
[[nodiscard]] std::unique_ptr<SweepSubject> sweep_policies(std::vector<SweepBaseSource> bases,
                                                           const LeRobotDataset& dataset, TrainOptions options);

}  // namespace thaw
