#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/nn/module.h>

#include "engine_impl.h"
#include "named_state_impl.h"
#include "thaw/core/error.h"
#include "thaw/freeze/apply.h"
#include "thaw/freeze/freeze_schedule.h"

namespace thaw {
namespace {

/// A generator seed for one micro-batch (SplitMix64, so that neighbours share nothing).
std::uint64_t micro_seed(std::uint64_t seed, std::int64_t micro_batch) {
  std::uint64_t mixed = seed + 0x9e3779b97f4a7c15ULL * (static_cast<std::uint64_t>(micro_batch) + 1);
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ULL;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebULL;
  return mixed ^ (mixed >> 31);
}

void require_trainable_scalar(const at::Tensor& loss) {
  if (loss.defined() && loss.numel() == 1 && loss.requires_grad()) return;
  std::string found = "nothing";
  if (loss.defined() && loss.numel() != 1) found = fmt::format("a tensor of shape [{}]", fmt::join(loss.sizes(), ", "));
  if (loss.defined() && loss.numel() == 1) found = "a number that depends on no trainable parameter";
  throw UsageError(Problem{.where = "TrainTask::loss", .expected = "a scalar with a graph", .found = found});
}

/// Eval mode everywhere while it lives; afterwards train mode with the frozen modules pinned.
class EvaluationMode {
 public:
  EvaluationMode(const FreezePlan& plan, torch::nn::Module& module) : plan_(plan), module_(module) { module_.eval(); }
  ~EvaluationMode() {
    module_.train();
    pin_eval(plan_, module_);
  }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  const FreezePlan& plan_;
  torch::nn::Module& module_;
};

}  // namespace

Engine::Engine(std::shared_ptr<torch::nn::Module> module, const FreezePlan& plan, const TrainOptions& options,
               const TrainingPreset& preset, Precision precision, at::Device device,
               StepRecording::MakeGraph make_graph)
    : module_(std::move(module)),
      plan_(plan),
      options_(options),
      precision_(precision),
      device_(device),
      witness_(plan, *module_),
      parameters_(trainable_parameters(plan, *module_)),
      buffers_(trained_buffers(plan, *module_)),
      optimizer_(parameters_, options.optimizer, preset),
      schedule_(options.schedule, preset, optimizer_.base_rate(), options.steps),
      guard_(options.max_consecutive_skips, device),
      record_(parameters_.size(), device),
      scaler_(precision, device),
      ema_(parameters_, options.ema),
      max_norm_(options.grad_clip_norm.value_or(preset.grad_clip_norm)) {
  if (!make_graph) return;
  recording_.emplace(std::move(make_graph));
  optimizer_.hold_rates_on_device();
}

/// What trains from here on. Moments of what no longer trains are given up.
void Engine::enter_phase(std::int64_t phase) {
  if (phase == phase_) return;
  phase_ = phase;
  phase_plan_ = options_.freeze_schedule->plan_of(phase);
  apply_freeze(*phase_plan_, *module_);
  optimizer_.restrict_to([this](const std::string& name) { return phase_plan_->trains(name); });
}

StepReport Engine::step(TrainTask& task) {
  if (options_.freeze_schedule) enter_phase(options_.freeze_schedule->phase_at(step_));
  const double factor = schedule_.factor(step_);
  optimizer_.set_factor(factor);
  StepReport report = recording_ && task.is_in_two_parts() ? recorded_step(task) : plain_step(task);
  ++step_;
  report.step = step_;
  report.learning_rate = optimizer_.base_rate() * factor;
  return report;
}

StepReport Engine::plain_step(TrainTask& task) {
  const std::vector<at::Tensor> buffers_before = copy_buffers();
  StepReport report = accumulate_gradients(task);
  update(report, buffers_before);
  return report;
}

StepReport Engine::recorded_step(TrainTask& task) {
  seed_generators(step_);
  StepInputs inputs;
  {
    const AutocastScope autocast(precision_, device_);
    inputs = task.prepare(micro_step(step_));
  }
  const auto from = [this, &task](StepInputs given) { return step_from(task, std::move(given)); };
  StepReport report = recording_->run(std::move(inputs), from);
  report.samples = task.last_samples();
  return report;
}

/// A step as a function of `inputs` and of what stays where it is on the device: what a recording holds.
StepReport Engine::step_from(TrainTask& task, StepInputs inputs) {
  const std::vector<at::Tensor> buffers_before = copy_buffers();
  at::Tensor loss;
  {
    const AutocastScope autocast(precision_, device_);
    loss = task.loss_of(std::move(inputs));
  }
  require_trainable_scalar(loss);
  scaler_.scale(loss).backward();
  StepReport report{.loss_value = loss.detach().to(at::kFloat).reshape({})};
  update(report, buffers_before);
  return report;
}

/// From gradients to weights.
void Engine::update(StepReport& report, const std::vector<at::Tensor>& buffers_before) {
  const at::Tensor overflow = scaler_.unscale(gradients());
  const GradientNorms norms = gradient_norms(parameters_);
  const at::Tensor skipped = guard_.judge(report.loss_value, norms.total, overflow);
  record_.note(norms);
  clip_gradients(parameters_, norms, max_norm_);
  optimizer_.step(skipped);
  undo_buffers(buffers_before, skipped);
  ema_.update(step_ + 1, skipped);
  scaler_.update(skipped);
  drop_gradients(parameters_);
  report.grad_norm_value = norms.total;
  report.skipped_value = skipped;
}

StepReport Engine::accumulate_gradients(TrainTask& task) {
  StepReport report;
  const std::int64_t first = step_ * options_.accumulation;
  for (std::int64_t part = 0; part < options_.accumulation; ++part) {
    const at::Tensor loss = micro_loss(task, first + part);
    const at::Tensor share = options_.accumulation > 1 ? loss / options_.accumulation : loss;
    scaler_.scale(share).backward();
    const at::Tensor value = share.detach().to(at::kFloat).reshape({});
    report.loss_value = report.loss_value.defined() ? report.loss_value + value : value;
    const std::vector<std::int64_t> samples = task.last_samples();
    report.samples.insert(report.samples.end(), samples.begin(), samples.end());
  }
  return report;
}

at::Tensor Engine::micro_loss(TrainTask& task, std::int64_t micro_batch) {
  seed_generators(micro_batch);
  const AutocastScope autocast(precision_, device_);
  const at::Tensor loss = task.loss(micro_step(micro_batch));
  require_trainable_scalar(loss);
  return loss;
}

void Engine::seed_generators(std::int64_t micro_batch) const {
  at::manual_seed(micro_seed(options_.seed, micro_batch));
}

MicroStep Engine::micro_step(std::int64_t micro_batch) const {
  return {.step = step_, .micro_batch = micro_batch, .seed = options_.seed};
}

std::vector<at::Tensor> Engine::gradients() const {
  std::vector<at::Tensor> result;
  for (const TrainableParameter& parameter : parameters_) {
    if (parameter.tensor.grad().defined()) result.push_back(parameter.tensor.grad());
  }
  return result;
}

std::vector<at::Tensor> Engine::copy_buffers() const {
  std::vector<at::Tensor> copies;
  copies.reserve(buffers_.size());
  for (const TrainableParameter& buffer : buffers_) copies.push_back(buffer.tensor.detach().clone());
  return copies;
}

/// The forward pass has updated running statistics already; a skipped step takes that back.
void Engine::undo_buffers(const std::vector<at::Tensor>& before, const at::Tensor& skipped) {
  const at::NoGradGuard no_grad;
  for (std::size_t index = 0; index < buffers_.size(); ++index) {
    at::Tensor& buffer = buffers_[index].tensor;
    buffer.copy_(at::where(skipped > 0, before[index], buffer));
  }
}

std::optional<EvaluationResult> Engine::evaluate(TrainTask& task) {
  const at::NoGradGuard no_grad;
  const EvaluationMode mode(plan_now(), *module_);
  const EmaScope averages(ema_);
  const AutocastScope autocast(precision_, device_);
  return task.evaluate(step_);
}

std::map<std::string, at::Tensor> Engine::trained() const {
  std::map<std::string, at::Tensor> tensors;
  for (const TrainableParameter& parameter : parameters_) tensors[parameter.name] = parameter.tensor.detach();
  for (const TrainableParameter& buffer : buffers_) tensors[buffer.name] = buffer.tensor.detach();
  return tensors;
}

std::map<std::string, GradientRecord::Flags> Engine::gradient_flags() const {
  const std::vector<GradientRecord::Flags> flags = record_.flags();
  std::map<std::string, GradientRecord::Flags> by_name;
  for (std::size_t index = 0; index < flags.size(); ++index) by_name[parameters_[index].name] = flags[index];
  return by_name;
}

void Engine::restore_gradient_flags(const TrainingState& state) {
  std::vector<GradientRecord::Flags> flags;
  for (const TrainableParameter& parameter : parameters_) {
    const auto found = state.gradients.find(parameter.name);
    flags.push_back(found == state.gradients.end() ? GradientRecord::Flags{} : found->second);
  }
  record_.load(flags);
}

std::vector<std::string> Engine::resting() const {
  std::vector<std::string> names;
  for (const TrainableParameter& parameter : parameters_) {
    if (!plan_now().trains(parameter.name)) names.push_back(parameter.name);
  }
  return names;
}

Checkpoint Engine::capture() const {
  Checkpoint checkpoint;
  checkpoint.state = {.step = step_,
                      .seed = options_.seed,
                      .batch_size = options_.batch_size,
                      .accumulation = options_.accumulation,
                      .draws = options_.draws,
                      .image_transforms = options_.image_transforms.text(),
                      .precision = std::string(precision_name(precision_)),
                      .plan_digest = plan_.digest(),
                      .base_digest = base_digest(plan_),
                      .guard = guard_.counters(),
                      .scaler = scaler_.state(),
                      .gradients = gradient_flags(),
                      .resting = resting(),
                      .frozen_moved = moved_frozen(),
                      .modules_not_in_eval = modules_not_in_eval(plan_now(), *module_),
                      .frozen_with_gradient = frozen_with_gradient(plan_now(), *module_)};
  checkpoint.head.tensors = trained();
  checkpoint.optimizer = optimizer_.state();
  checkpoint.ema = ema_.state();
  return checkpoint;
}

void Engine::restore(const Checkpoint& checkpoint) {
  copy_named_state(checkpoint.head.tensors, trained(), "head");
  // The moments are those of the last step that was made, whatever trains in the next.
  if (options_.freeze_schedule && checkpoint.state.step > 0) {
    enter_phase(options_.freeze_schedule->phase_at(checkpoint.state.step - 1));
  }
  optimizer_.load_state(checkpoint.optimizer);
  ema_.load_state(checkpoint.ema);
  guard_.load(checkpoint.state.guard);
  scaler_.load(checkpoint.state.scaler);
  restore_gradient_flags(checkpoint.state);
  step_ = checkpoint.state.step;
}

}  // namespace thaw
