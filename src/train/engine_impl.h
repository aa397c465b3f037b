// The training step and everything it changes: what a checkpoint must hold is exactly the state of this class.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "frozen_witness_impl.h"
#include "step_recording_impl.h"
#include "thaw/freeze/plan.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/ema.h"
#include "thaw/train/gradient_guard.h"
#include "thaw/train/gradients.h"
#include "thaw/train/observer.h"
#include "thaw/train/optimizer.h"
#include "thaw/train/options.h"
#include "thaw/train/parameters.h"
#include "thaw/train/precision.h"
#include "thaw/train/schedule.h"
#include "thaw/train/task.h"

namespace thaw {

class Engine {
 public:
  /// `module` obeys the plan already and lies on `device`. With `make_graph`, steps of tasks in two parts are recorded.
  Engine(std::shared_ptr<torch::nn::Module> module, const FreezePlan& plan, const TrainOptions& options,
         const TrainingPreset& preset, Precision precision, at::Device device,
         StepRecording::MakeGraph make_graph = {});

  StepReport step(TrainTask& task);
  std::optional<EvaluationResult> evaluate(TrainTask& task);
  /// @throws CheckFailed naming the step when too many steps in a row were skipped
  void check_guard() { guard_.check(step_); }

  [[nodiscard]] std::int64_t steps_done() const noexcept { return step_; }
  [[nodiscard]] std::int64_t skipped_steps() const { return guard_.counters().skipped; }
  [[nodiscard]] std::int64_t optimizer_bytes() const { return optimizer_.state_bytes(); }
  [[nodiscard]] bool has_ema() const { return ema_.enabled(); }

  /// Frozen tensors whose content changed since construction.
  [[nodiscard]] std::vector<std::string> moved_frozen() const { return witness_.moved(*module_); }
  /// Trained parameters and buffers by name (live, not copied).
  [[nodiscard]] std::map<std::string, at::Tensor> trained() const;
  [[nodiscard]] std::map<std::string, at::Tensor> averages() const { return ema_.state(); }
  /// Optimizer, EMA, counters and trained tensors; the head's metadata are the caller's.
  [[nodiscard]] Checkpoint capture() const;
  /// @throws MismatchError when the checkpoint's tensors are not this engine's
  void restore(const Checkpoint& checkpoint);

 private:
  void enter_phase(std::int64_t phase);
  [[nodiscard]] const FreezePlan& plan_now() const { return phase_plan_ ? *phase_plan_ : plan_; }
  /// Trainable parameters of the run that do not train in this phase.
  [[nodiscard]] std::vector<std::string> resting() const;
  StepReport plain_step(TrainTask& task);
  StepReport recorded_step(TrainTask& task);
  StepReport step_from(TrainTask& task, StepInputs inputs);
  StepReport accumulate_gradients(TrainTask& task);
  void update(StepReport& report, const std::vector<at::Tensor>& buffers_before);
  at::Tensor micro_loss(TrainTask& task, std::int64_t micro_batch);
  void seed_generators(std::int64_t micro_batch) const;
  [[nodiscard]] MicroStep micro_step(std::int64_t micro_batch) const;
  [[nodiscard]] std::vector<at::Tensor> gradients() const;
  [[nodiscard]] std::vector<at::Tensor> copy_buffers() const;
  void undo_buffers(const std::vector<at::Tensor>& before, const at::Tensor& skipped);
  [[nodiscard]] std::map<std::string, GradientRecord::Flags> gradient_flags() const;
  void restore_gradient_flags(const TrainingState& state);

  std::shared_ptr<torch::nn::Module> module_;
  const FreezePlan& plan_;
  const TrainOptions& options_;
  Precision precision_;
  at::Device device_;
  FrozenWitness witness_;
  std::vector<TrainableParameter> parameters_;
  std::vector<TrainableParameter> buffers_;
  AdamW optimizer_;
  Schedule schedule_;
  GradientGuard guard_;
  GradientRecord record_;
  LossScaler scaler_;
  Ema ema_;
  double max_norm_;
  std::optional<StepRecording> recording_;
  std::int64_t step_ = 0;
  std::int64_t phase_ = -1;               ///< of the freeze schedule, where there is one
  std::optional<FreezePlan> phase_plan_;  ///< what trains in it
};

}  // namespace thaw
