#include <chrono>
#include <csignal>

#include "loop_impl.h"
#include "thaw/train/metrics.h"
#include "thaw/train/progress_observer.h"
#include "thaw/train/signals.h"
#include "thaw/train/tensorboard.h"

namespace thaw {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

bool due(std::int64_t step, std::int64_t every) { return every > 0 && step % every == 0; }

StopReason reason_of(int signal) {
  if (signal == SIGINT) return StopReason::interrupted;
  return signal == SIGTERM ? StopReason::terminated : StopReason::finished;
}

/// The files of the run folder and the progress line are observers like any other.
std::vector<std::shared_ptr<TrainObserver>> own_observers(const TrainOptions& options, const RunFolder* folder,
                                                          std::int64_t first_step) {
  std::vector<std::shared_ptr<TrainObserver>> own;
  if (folder != nullptr) {
    forget_metrics_after(folder->metrics(), first_step);
    own.push_back(std::make_shared<MetricsFile>(folder->metrics()));
    if (options.tensorboard) own.push_back(std::make_shared<TensorBoardFile>(folder->root()));
  }
  if (!options.quiet) own.push_back(std::make_shared<ProgressObserver>());
  return own;
}

}  // namespace

Loop::Loop(const TrainOptions& options, const FreezePlan& plan, Engine& engine, RunWriter& writer,
           const std::vector<std::shared_ptr<TrainObserver>>& observers)
    : options_(options), plan_(plan), engine_(engine), writer_(writer) {
  writer_.write_beginning();
  observers_ = own_observers(options_, writer_.folder().get(), engine_.steps_done());
  observers_.insert(observers_.end(), observers.begin(), observers.end());
}

FitResult Loop::run(TrainTask& task) {
  const SignalScope signals;
  const Clock::time_point begin = Clock::now();
  tell(&TrainObserver::on_start, run_info());
  train(task);
  result_.step = engine_.steps_done();
  result_.skipped_steps = engine_.skipped_steps();
  result_.seconds = seconds_since(begin);
  if (writer_.folder() && writer_.saved_step()) {
    result_.checkpoint = writer_.folder()->checkpoints() / checkpoint_name(*writer_.saved_step());
  }
  tell(&TrainObserver::on_end, result_);
  return result_;
}

void Loop::train(TrainTask& task) {
  if (engine_.steps_done() == 0) evaluate(task);
  window_.restart(task.data_wait_seconds());
  while (engine_.steps_done() < options_.steps && stop_signal() == 0) {
    StepReport report = engine_.step(task);
    tell(&TrainObserver::on_step, report);
    window_.add(std::move(report));
    after_step(task);
  }
  log(task);
  if (engine_.steps_done() < options_.steps) result_.stopped_by = reason_of(stop_signal());
  save_at_end();
  // Whoever asked to stop does not want to wait for an evaluation.
  const bool finished = result_.stopped_by == StopReason::finished;
  if (finished && evaluated_step_ != engine_.steps_done()) evaluate(task);
}

void Loop::after_step(TrainTask& task) {
  const std::int64_t step = engine_.steps_done();
  if (due(step, options_.log_every)) log(task);
  engine_.check_guard();
  const Clock::time_point begin = Clock::now();
  if (due(step, options_.save_every)) save_at_interval();
  if (due(step, options_.eval_every)) evaluate(task);
  window_.leave_out(seconds_since(begin));
}

void Loop::evaluate(TrainTask& task) {
  std::optional<EvaluationResult> evaluation = engine_.evaluate(task);
  evaluated_step_ = engine_.steps_done();
  if (!evaluation) return;
  tell(&TrainObserver::on_evaluation, engine_.steps_done(), *evaluation);
  result_.evaluation = std::move(evaluation);
}

void Loop::log(TrainTask& task) {
  if (window_.empty()) return;
  LogRecord record = window_.flush(task.data_wait_seconds(), samples_per_step());
  record.epoch = epoch(task);
  record.skipped_steps = engine_.skipped_steps();
  result_.loss = record.loss;
  tell(&TrainObserver::on_log, record);
}

void Loop::save_at_interval() {
  if (!writer_.folder()) return;
  if (const std::optional<SaveReport> report = writer_.try_save()) tell(&TrainObserver::on_save, *report);
}

void Loop::save_at_end() {
  if (!writer_.folder() || writer_.saved_step() == engine_.steps_done()) return;
  tell(&TrainObserver::on_save, writer_.save());
}

double Loop::epoch(const TrainTask& task) const {
  const std::int64_t per_epoch = task.micro_batches_per_epoch();
  if (per_epoch == 0) return 0.0;
  return static_cast<double>(engine_.steps_done() * options_.accumulation) / static_cast<double>(per_epoch);
}

RunInfo Loop::run_info() const {
  return {.first_step = engine_.steps_done(),
          .steps = options_.steps,
          .samples_per_step = samples_per_step(),
          .trainable_elements = plan_.elements(ParameterClass::trainable),
          .output = writer_.folder() ? writer_.folder()->root() : std::filesystem::path()};
}

}  // namespace thaw
