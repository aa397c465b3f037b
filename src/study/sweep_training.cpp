#include <chrono>
#include <cmath>
#include <utility>

#include "sweep_memory_impl.h"
#include "sweep_training_impl.h"
#include "thaw/train/observer.h"

namespace thaw {
namespace {

using Clock = std::chrono::steady_clock;

/// The task as it is, but for the evaluation before the first step: it is the base's and the same in every point.
class WithoutFirstEvaluation final : public TrainTask {
 public:
  explicit WithoutFirstEvaluation(TrainTask& task) : task_(task) {}

  [[nodiscard]] at::Tensor loss(const MicroStep& micro_step) override { return task_.loss(micro_step); }
  [[nodiscard]] bool is_in_two_parts() const override { return task_.is_in_two_parts(); }
  [[nodiscard]] StepInputs prepare(const MicroStep& micro_step) override { return task_.prepare(micro_step); }
  [[nodiscard]] at::Tensor loss_of(StepInputs inputs) override { return task_.loss_of(std::move(inputs)); }
  [[nodiscard]] std::vector<std::int64_t> last_samples() const override { return task_.last_samples(); }
  [[nodiscard]] std::optional<EvaluationResult> evaluate(std::int64_t step) override {
    return step == 0 ? std::nullopt : task_.evaluate(step);
  }
  [[nodiscard]] std::int64_t micro_batches_per_epoch() const override { return task_.micro_batches_per_epoch(); }
  [[nodiscard]] double data_wait_seconds() const override { return task_.data_wait_seconds(); }

 private:
  TrainTask& task_;
};

/// Time spent on training steps alone, and word to the watcher.
class StepTimes final : public TrainObserver {
 public:
  explicit StepTimes(SweepWatcher watcher) : watcher_(std::move(watcher)) {}

  void on_start(const RunInfo& info) override {
    samples_per_step_ = info.samples_per_step;
    step_ = info.first_step;
  }
  void on_log(const LogRecord& record) override {
    const std::int64_t steps = std::exchange(step_, record.step);
    seconds_ += record.seconds_per_step * static_cast<double>(record.step - steps);
    samples_ += static_cast<double>((record.step - steps) * samples_per_step_);
    if (watcher_) watcher_(record.step, record.loss);
  }
  [[nodiscard]] double samples_per_second() const { return seconds_ > 0.0 ? samples_ / seconds_ : 0.0; }

 private:
  SweepWatcher watcher_;
  std::int64_t samples_per_step_ = 0;
  std::int64_t step_ = 0;
  double seconds_ = 0.0;
  double samples_ = 0.0;
};

}  // namespace

TrainOptions options_of_point(TrainOptions options, const SweepPoint& point) {
  options.optimizer.learning_rate = point.learning_rate;
  options.draws = point.draws;
  options.seed = point.seed;
  options.steps = point.steps;
  options.output.clear();
  options.resume = false;
  options.quiet = true;
  return options;
}

bool train_point(Trainer& trainer, const MakeSweepTask& make_task, const std::filesystem::path& head_folder,
                 const SweepWatcher& watcher, SweepResult& result) {
  const std::unique_ptr<TrainTask> task = make_task(trainer);
  forget_peak_resident();
  const Clock::time_point begin = Clock::now();
  WithoutFirstEvaluation without_first(*task);
  const auto times = std::make_shared<StepTimes>(watcher);
  trainer.add_observer(times);
  const FitResult fit = trainer.fit(without_first);
  if (fit.stopped_by != StopReason::finished) return false;
  trainer.save_head(head_folder);
  result.held_out = fit.evaluation;
  if (fit.loss && std::isfinite(*fit.loss)) result.training_loss = fit.loss;
  result.skipped_steps = fit.skipped_steps;
  result.head_bytes = static_cast<std::int64_t>(std::filesystem::file_size(head_folder / "head.safetensors"));
  if (!fit.evaluation) {
    result.error = "nothing was held out to measure it on";
  } else if (!std::isfinite(fit.evaluation->loss)) {
    result.held_out.reset();
    result.error = "its held-out loss is no finite number";
  }
  result.times = {.seconds = std::chrono::duration<double>(Clock::now() - begin).count(),
                  .samples_per_second = times->samples_per_second(),
                  .peak_resident_bytes = peak_resident_bytes()};
  return true;
}

}  // namespace thaw
