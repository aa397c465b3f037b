/// Trains what a freeze plan lets train: any torch::nn::Module with a loss, or a policy on a LeRobot dataset.
///
///     thaw::Trainer trainer(policy, plan, {.steps = 20'000, .batch_size = 32, .output = "runs/drawer"});
///     trainer.fit(thaw::LeRobotDataset::open("data/"));
///     trainer.save_head("heads/drawer");
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "thaw/data/dataset.h"
#include "thaw/freeze/plan.h"
#include "thaw/policy/policy.h"
#include "thaw/train/observer.h"
#include "thaw/train/options.h"
#include "thaw/train/run_folder.h"
#include "thaw/train/task.h"

namespace torch::nn {
class Module;
}

namespace thaw {

class Trainer {
 public:
  /// Takes the run folder (when there is one) before anything else, makes the module obey the plan, moves it to the
  /// device, holds frozen weights in the compute dtype and trainable ones as float32 masters, and, when resuming, loads
  /// the newest good checkpoint. `folder`: already opened by the caller; null: opened here from options.output.
  /// @throws UsageError (options, a plan that trains nothing, a folder that holds a run already), IoError (folder in
  /// use), MismatchError (plan and module, or on resume another plan or base, with the differences), FormatError
  Trainer(std::shared_ptr<torch::nn::Module> module, FreezePlan plan, TrainOptions options,
          std::shared_ptr<RunFolder> folder = nullptr);
  Trainer(std::shared_ptr<Policy> policy, FreezePlan plan, TrainOptions options,
          std::shared_ptr<RunFolder> folder = nullptr);
  ~Trainer();
  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;

  /// Runs to options.steps, or to the end of the step in which SIGINT or SIGTERM arrived; saves at the end.
  /// @throws CheckFailed (too many skipped steps in a row; a frozen tensor moved), IoError (three saves failed in a
  /// row)
  FitResult fit(TrainTask& task);
  /// Trains the policy this trainer was made with; held-out episodes as the options say (train/policy_task.h).
  /// @throws UsageError when the trainer was made with a plain module; MismatchError when dataset and policy do not fit
  FitResult fit(const LeRobotDataset& dataset);

  /// One optimizer step, without saving, logging or signals.
  StepReport step(TrainTask& task);
  /// In eval mode, without grad, with the EMA weights where there are some.
  [[nodiscard]] std::optional<EvaluationResult> evaluate(TrainTask& task);

  /// Writes a checkpoint into the run folder. @throws IoError, CheckFailed (a frozen tensor moved), UsageError (no
  /// folder)
  std::filesystem::path save();
  /// Writes <folder>/head.safetensors: only what was trained (train/head.h).
  void save_head(const std::filesystem::path& folder) const;

  void add_observer(std::shared_ptr<TrainObserver> observer);

  [[nodiscard]] std::int64_t steps_done() const noexcept;
  [[nodiscard]] std::int64_t skipped_steps() const;
  [[nodiscard]] const FreezePlan& plan() const noexcept;  ///< with the digests of the base
  [[nodiscard]] const TrainOptions& options() const noexcept;
  [[nodiscard]] Precision precision() const noexcept;  ///< what automatic became
  [[nodiscard]] at::Device device() const noexcept;
  /// Bytes held for the optimizer: 8 per trainable element and 4 per tensor.
  [[nodiscard]] std::int64_t optimizer_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw
