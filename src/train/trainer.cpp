#include "thaw/train/trainer.h"

#include <fmt/format.h>
#include <torch/nn/module.h>

#include "engine_impl.h"
#include "loop_impl.h"
#include "run_writer_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/freeze/apply.h"
#include "thaw/freeze/freeze_schedule.h"
#include "thaw/tensor/device.h"
#include "thaw/tensor/device_graph.h"
#include "thaw/train/head.h"
#include "thaw/train/policy_task.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

void require_something_trains(const FreezePlan& plan) {
  if (plan.elements(ParameterClass::trainable) > 0) return;
  throw UsageError(Problem{.where = "freeze plan", .expected = "at least one trainable tensor", .found = "none"});
}

/// The plan with the digests of what the module holds. One that was made with weights must have been made with these.
FreezePlan with_digests(FreezePlan plan, const torch::nn::Module& module) {
  const std::vector<PlannedParameter> given = plan.parameters;
  add_digests(plan, module);
  for (std::size_t index = 0; index < given.size(); ++index) {
    if (given[index].digest.empty() || given[index].digest == plan.parameters[index].digest) continue;
    throw MismatchError(Problem{.where = given[index].name,
                                .expected = "the content the plan was made on",
                                .found = "another",
                                .fix = "Resolve the plan on the model that is trained."});
  }
  return plan;
}

at::Device device_of(const TrainOptions& options) { return options.device ? *options.device : parse_device("auto"); }

void require_plan_of_schedule(const FreezePlan& plan, const TrainOptions& options) {
  if (!options.freeze_schedule || options.freeze_schedule->whole().digest() == plan.digest()) return;
  throw UsageError(Problem{.where = "Trainer",
                           .expected = "the plan of the run to be that of its freeze schedule, whole()",
                           .found = "another"});
}

/// What records the steps of a run; null when they are not recorded. @throws UsageError when they must be and cannot
StepRecording::MakeGraph graph_maker(const TrainOptions& options, at::Device device) {
  const bool allowed = options.accumulation == 1 && !options.ema.enable && !options.freeze_schedule;
  const bool wanted = options.cuda_graph == CudaGraphs::automatic && device.is_cuda() && allowed;
  if (options.cuda_graph != CudaGraphs::on && !wanted) return nullptr;
  if (const std::string obstacle = device_graph_obstacle(device); wanted && !obstacle.empty()) {
    log_info(fmt::format("training without CUDA graphs: {}", obstacle));
    return nullptr;
  }
  static_cast<void>(make_device_graph(device));  // what stands in the way must be said before anything runs
  return [device] { return make_device_graph(device); };
}

std::shared_ptr<RunFolder> folder_of(const TrainOptions& options, std::shared_ptr<RunFolder> given) {
  options.validate();
  if (given || options.output.empty()) return given;
  return std::make_shared<RunFolder>(options.output, options.resume);
}

}  // namespace

struct Trainer::Impl {
  Impl(std::shared_ptr<torch::nn::Module> module, std::shared_ptr<Policy> policy_, FreezePlan given,
       TrainOptions options_, std::shared_ptr<RunFolder> folder_)
      : options(std::move(options_)),
        folder(folder_of(options, std::move(folder_))),
        policy(std::move(policy_)),
        device(device_of(options)),
        precision(resolve_precision(options.precision, device)) {
    require_something_trains(given);
    require_plan_of_schedule(given, options);
    module->to(device);
    plan = with_digests(std::move(given), *module);
    apply_freeze(plan, *module);
    cast_parameters(plan, *module, precision);
    const TrainingPreset preset = policy ? policy->training_preset() : TrainingPreset{};
    engine = std::make_unique<Engine>(module, plan, options, preset, precision, device, graph_maker(options, device));
    writer = std::make_unique<RunWriter>(folder, options, plan, *engine, policy);
    if (options.resume) resumed = writer->resume(precision);
  }

  TrainOptions options;
  std::shared_ptr<RunFolder> folder;
  std::shared_ptr<Policy> policy;  ///< null for a plain module
  FreezePlan plan;
  at::Device device;
  Precision precision;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<RunWriter> writer;
  std::vector<std::shared_ptr<TrainObserver>> observers;
  bool resumed = false;  ///< a checkpoint was loaded
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

FitResult Trainer::fit(TrainTask& task) {
  return Loop(impl_->options, impl_->plan, *impl_->engine, *impl_->writer, impl_->observers).run(task);
}

FitResult Trainer::fit(const LeRobotDataset& dataset) {
  if (!impl_->policy) {
    throw UsageError(Problem{.where = "Trainer::fit(dataset)",
                             .expected = "a trainer made with a policy",
                             .found = "one made with a plain module",
                             .fix = "Give fit() a TrainTask (train/task.h)."});
  }
  PolicyTask task(impl_->policy, impl_->plan, dataset, impl_->options, impl_->device,
                  /*keep_statistics=*/impl_->resumed);
  for (const std::string& warning : task.warnings()) log_warning(warning);
  FitResult result = fit(task);
  if (const std::optional<CacheStatistics> cache = task.cache_statistics()) {
    log_info(fmt::format("cache: {} frames, {} found, {} computed", cache->entries, cache->hits, cache->stored));
  }
  return result;
}

StepReport Trainer::step(TrainTask& task) {
  StepReport report = impl_->engine->step(task);
  impl_->engine->check_guard();
  return report;
}

std::optional<EvaluationResult> Trainer::evaluate(TrainTask& task) { return impl_->engine->evaluate(task); }

fs::path Trainer::save() { return impl_->writer->save().folder; }

void Trainer::save_head(const fs::path& folder) const {
  publish_head(folder / "head.safetensors", impl_->writer->head(impl_->engine->trained()));
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
