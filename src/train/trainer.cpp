#include "thaw/train/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <chrono>
#include <csignal>

#include "engine_impl.h"
#include "metrics_window_impl.h"
#include "resume_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/core/sha256.h"
#include "thaw/freeze/apply.h"
#include "thaw/tensor/device.h"
#include "thaw/train/head.h"
#include "thaw/train/metrics.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/progress_observer.h"
#include "thaw/train/signals.h"
#include "thaw/train/tensorboard.h"
#include "thaw/train/version.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

void require_something_trains(const FreezePlan& plan) {
  if (plan.elements(ParameterClass::trainable) > 0) return;
  throw UsageError(Problem{.where = "freeze plan", .expected = "at least one trainable tensor", .found = "none"});
}

/// The plan with the digests of what the module holds. One that was made with weights must have been made with these.
FreezePlan with_digests(const FreezePlan& given, const torch::nn::Module& module) {
  FreezePlan plan = given;
  add_digests(plan, module);
  for (std::size_t index = 0; index < given.parameters.size(); ++index) {
    const PlannedParameter& before = given.parameters[index];
    if (before.digest.empty() || before.digest == plan.parameters[index].digest) continue;
    throw MismatchError(Problem{.where = before.name,
                                .expected = "the content the plan was made on",
                                .found = "another",
                                .fix = "Resolve the plan on the model that is trained."});
  }
  return plan;
}

at::Device device_of(const TrainOptions& options) { return options.device ? *options.device : parse_device("auto"); }

std::shared_ptr<RunFolder> folder_of(const TrainOptions& options, std::shared_ptr<RunFolder> given) {
  options.validate();
  if (given || options.output.empty()) return given;
  return std::make_shared<RunFolder>(options.output, options.resume);
}

std::string base_file_digest(const Policy& policy) {
  const fs::path file = policy.source() / "model.safetensors";
  return !policy.source().empty() && fs::exists(file) ? sha256_file(file) : std::string();
}

StopReason reason_of(int signal) {
  if (signal == SIGINT) return StopReason::interrupted;
  return signal == SIGTERM ? StopReason::terminated : StopReason::finished;
}

std::uint64_t folder_bytes(const fs::path& folder) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder)) bytes += entry.file_size();
  return bytes;
}

}  // namespace

struct Trainer::Impl {
  TrainOptions options;
  std::shared_ptr<RunFolder> folder;
  std::shared_ptr<torch::nn::Module> module;
  std::shared_ptr<Policy> policy;  ///< null for a plain module
  FreezePlan plan;
  std::string base_file_sha256;
  at::Device device;
  Precision precision;
  std::unique_ptr<Engine> engine;
  std::vector<std::shared_ptr<TrainObserver>> observers;
  bool resumed = false;  ///< a checkpoint was loaded
  bool started = false;  ///< the run folder holds plan and configuration
  std::int64_t saved_step = -1;
  int failed_saves = 0;

  Impl(std::shared_ptr<torch::nn::Module> module_, std::shared_ptr<Policy> policy_, FreezePlan plan_,
       TrainOptions options_, std::shared_ptr<RunFolder> folder_)
      : options(std::move(options_)),
        folder(folder_of(options, std::move(folder_))),
        module(std::move(module_)),
        policy(std::move(policy_)),
        device(device_of(options)),
        precision(resolve_precision(options.precision, device)) {
    require_something_trains(plan_);
    const TrainingPreset preset = policy ? policy->training_preset() : TrainingPreset{};
    module->to(device);
    plan = with_digests(plan_, *module);
    apply_freeze(plan, *module);
    cast_parameters(plan, *module, precision);
    engine = std::make_unique<Engine>(module, plan, options, preset, precision, device);
    if (policy) base_file_sha256 = base_file_digest(*policy);
    if (options.resume) resume();
  }

  // --- the run folder ---

  void resume() {
    if (!fs::exists(folder->plan())) return;
    require_same_plan(plan, *folder);
    started = true;
    std::optional<Checkpoint> checkpoint = newest_checkpoint(folder->checkpoints());
    if (!checkpoint) return;  // it was stopped before its first save: from the beginning
    warn_of_changed_options(checkpoint->state, options, precision);
    engine->restore(*checkpoint);
    if (policy) apply_head_processing(*policy, checkpoint->head);
    set_aside_newer(folder->checkpoints(), checkpoint->state.step);
    resumed = true;
    saved_step = checkpoint->state.step;
    log_info(fmt::format("resuming {} at step {}", folder->root().string(), checkpoint->state.step));
  }

  void write_beginning() {
    if (started || !folder) return;
    if (!options.config_text.empty()) write_text_atomic(folder->config(), options.config_text);
    write_text_atomic(folder->plan(), plan.to_json().dump(2) + "\n");
    started = true;
  }

  [[nodiscard]] HeadInfo head_info() const {
    return {.policy_type = policy ? policy->type() : plan.model_type,
            .base_digest = base_digest(plan),
            .base_file_sha256 = base_file_sha256,
            .plan_digest = plan.digest(),
            .freeze_rules = plan.rules,
            .rename_map = policy ? policy->preprocessor().rename_map() : std::map<std::string, std::string>(),
            .step = engine->steps_done(),
            .thaw_version = std::string(kThawVersion)};
  }

  [[nodiscard]] Head head(std::map<std::string, at::Tensor> tensors) const {
    return {.info = head_info(),
            .tensors = std::move(tensors),
            .statistics = policy ? policy->preprocessor().statistics() : Statistics()};
  }

  void require_frozen_unchanged(const TrainingState& state) const {
    if (state.frozen_moved.empty()) return;
    throw CheckFailed(Problem{.where = fmt::format("{}", fmt::join(state.frozen_moved, ", ")),
                              .expected = "the content they had at the start: they are frozen",
                              .found = "another",
                              .fix = "Nothing was saved. Something other than the optimizer writes to them."});
  }

  fs::path save() {
    if (!folder) {
      throw UsageError(
          Problem{.where = "TrainOptions.output", .expected = "a run folder to save into", .found = "none"});
    }
    const Clock::time_point begin = Clock::now();
    Checkpoint checkpoint = engine->capture();
    require_frozen_unchanged(checkpoint.state);
    checkpoint.head = head(std::move(checkpoint.head.tensors));
    write_beginning();
    const fs::path written = write_checkpoint(folder->checkpoints(), checkpoint);
    publish(folder->last_head(), checkpoint.head);
    if (engine->has_ema()) publish(folder->ema_head(), head(engine->averages()));
    rotate_checkpoints(folder->checkpoints(), options.keep_last);
    saved_step = checkpoint.state.step;
    tell(&TrainObserver::on_save, SaveReport{.step = checkpoint.state.step,
                                             .folder = written,
                                             .bytes = folder_bytes(written),
                                             .seconds = seconds_since(begin)});
    return written;
  }

  static void publish(const fs::path& file, const Head& content) {
    fs::create_directories(file.parent_path());
    write_head(file, content);
  }

  /// A save that fails leaves what was there; training goes on and the next interval tries again.
  void try_save() {
    constexpr int kMostFailures = 3;
    try {
      save();
      failed_saves = 0;
      return;
    } catch (const IoError& error) {
      note_failed_save(error.what());
    } catch (const fs::filesystem_error& error) {
      note_failed_save(error.what());
    }
    if (failed_saves < kMostFailures) return;
    throw IoError(Problem{.where = folder->root().string(),
                          .expected = "a checkpoint at one of three intervals",
                          .found = "three failed saves in a row (see the warnings above)",
                          .fix = "Earlier checkpoints are intact: make room, then resume."});
  }

  void note_failed_save(const std::string& reason) {
    ++failed_saves;
    log_warning(fmt::format("step {}: could not save: {}; training goes on", engine->steps_done(), reason));
  }

  // --- the loop ---

  template <class... Arguments>
  void tell(void (TrainObserver::*event)(Arguments...), const std::type_identity_t<Arguments>&... arguments) {
    for (const auto& observer : observers) ((*observer).*event)(arguments...);
  }

  /// The files of the run folder and the progress line are observers like any other.
  [[nodiscard]] std::vector<std::shared_ptr<TrainObserver>> own_observers() const {
    std::vector<std::shared_ptr<TrainObserver>> own;
    if (folder) {
      forget_metrics_after(folder->metrics(), engine->steps_done());
      own.push_back(std::make_shared<MetricsFile>(folder->metrics()));
      if (options.tensorboard) own.push_back(std::make_shared<TensorBoardFile>(folder->root()));
    }
    if (!options.quiet) own.push_back(std::make_shared<ProgressObserver>());
    return own;
  }

  [[nodiscard]] std::int64_t samples_per_step() const { return options.batch_size * options.accumulation; }

  [[nodiscard]] RunInfo run_info() const {
    return {.first_step = engine->steps_done(),
            .steps = options.steps,
            .samples_per_step = samples_per_step(),
            .trainable_elements = plan.elements(ParameterClass::trainable),
            .output = folder ? folder->root() : fs::path()};
  }

  [[nodiscard]] double epoch(const TrainTask& task) const {
    const std::int64_t per_epoch = task.micro_batches_per_epoch();
    if (per_epoch == 0) return 0.0;
    return static_cast<double>(engine->steps_done() * options.accumulation) / static_cast<double>(per_epoch);
  }

  static bool due(std::int64_t step, std::int64_t every) { return every > 0 && step % every == 0; }

  void evaluate(TrainTask& task, FitResult& result) {
    std::optional<EvaluationResult> evaluation = engine->evaluate(task);
    if (!evaluation) return;
    tell(&TrainObserver::on_evaluation, engine->steps_done(), *evaluation);
    result.evaluation = std::move(evaluation);
  }

  void log(TrainTask& task, MetricsWindow& window, FitResult& result) {
    if (window.empty()) return;
    const LogRecord record =
        window.flush(task.data_wait_seconds(), epoch(task), samples_per_step(), engine->skipped_steps());
    result.loss = record.loss;
    tell(&TrainObserver::on_log, record);
  }

  void train(TrainTask& task, FitResult& result) {
    MetricsWindow window(task.data_wait_seconds());
    std::int64_t evaluated = -1;
    if (engine->steps_done() == 0) evaluate(task, result);
    while (engine->steps_done() < options.steps && stop_signal() == 0) {
      StepReport report = engine->step(task);
      tell(&TrainObserver::on_step, report);
      window.add(std::move(report));
      const std::int64_t step = engine->steps_done();
      if (due(step, options.log_every)) log(task, window, result);
      engine->check_guard();
      if (folder && due(step, options.save_every)) try_save();
      if (!due(step, options.eval_every)) continue;
      evaluate(task, result);
      evaluated = step;
    }
    log(task, window, result);
    result.stopped_by = reason_of(engine->steps_done() < options.steps ? stop_signal() : 0);
    if (folder && saved_step != engine->steps_done()) save();
    if (result.stopped_by == StopReason::finished && evaluated != engine->steps_done()) evaluate(task, result);
  }

  FitResult fit(TrainTask& task) {
    const SignalScope signals;
    const Clock::time_point begin = Clock::now();
    write_beginning();
    const std::vector<std::shared_ptr<TrainObserver>> given = observers;
    const std::vector<std::shared_ptr<TrainObserver>> own = own_observers();
    observers.insert(observers.begin(), own.begin(), own.end());
    FitResult result;
    try {
      tell(&TrainObserver::on_start, run_info());
      train(task, result);
      result.step = engine->steps_done();
      result.skipped_steps = engine->skipped_steps();
      result.seconds = seconds_since(begin);
      if (folder && saved_step >= 0) result.checkpoint = folder->checkpoints() / checkpoint_name(saved_step);
      tell(&TrainObserver::on_end, result);
    } catch (...) {
      observers = given;
      throw;
    }
    observers = given;
    return result;
  }
};

Trainer::Trainer(std::shared_ptr<torch::nn::Module> module, FreezePlan plan, TrainOptions options,
                 std::shared_ptr<RunFolder> folder)
    : impl_(
          std::make_unique<Impl>(std::move(module), nullptr, std::move(plan), std::move(options), std::move(folder))) {}

Trainer::Trainer(std::shared_ptr<Policy> policy, FreezePlan plan, TrainOptions options,
                 std::shared_ptr<RunFolder> folder)
    : impl_(std::make_unique<Impl>(policy->module(), policy, std::move(plan), std::move(options), std::move(folder))) {}

Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;

FitResult Trainer::fit(TrainTask& task) { return impl_->fit(task); }

FitResult Trainer::fit(const LeRobotDataset& dataset) {
  if (!impl_->policy) {
    throw UsageError(Problem{.where = "Trainer::fit(dataset)",
                             .expected = "a trainer made with a policy",
                             .found = "one made with a plain module",
                             .fix = "Give fit() a TrainTask (train/task.h)."});
  }
  PolicyTask task(impl_->policy, impl_->plan, dataset, impl_->options, impl_->device, impl_->resumed);
  for (const std::string& warning : task.warnings()) log_warning(warning);
  return impl_->fit(task);
}

StepReport Trainer::step(TrainTask& task) {
  StepReport report = impl_->engine->step(task);
  impl_->engine->check_guard();
  return report;
}

std::optional<EvaluationResult> Trainer::evaluate(TrainTask& task) { return impl_->engine->evaluate(task); }
fs::path Trainer::save() { return impl_->save(); }

void Trainer::save_head(const fs::path& folder) const {
  Impl::publish(folder / "head.safetensors", impl_->head(impl_->engine->trained()));
}

void Trainer::add_observer(std::shared_ptr<TrainObserver> observer) { impl_->observers.push_back(std::move(observer)); }

std::int64_t Trainer::steps_done() const noexcept { return impl_->engine->steps_done(); }
std::int64_t Trainer::skipped_steps() const { return impl_->engine->skipped_steps(); }
const FreezePlan& Trainer::plan() const noexcept { return impl_->plan; }
const TrainOptions& Trainer::options() const noexcept { return impl_->options; }
Precision Trainer::precision() const noexcept { return impl_->precision; }
at::Device Trainer::device() const noexcept { return impl_->device; }
std::int64_t Trainer::optimizer_bytes() const { return impl_->engine->optimizer_bytes(); }

}  // namespace thaw
