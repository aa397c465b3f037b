#include "thaw/train/optimizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "named_state_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

/// The last rule whose pattern matches, or null.
const RateRule* rule_for(const std::string& name, const std::vector<RateRule>& rules) {
  const RateRule* last = nullptr;
  for (const RateRule& rule : rules) {
    if (glob_match(rule.pattern, name)) last = &rule;
  }
  return last;
}

double peak_of(const TrainableParameter& parameter, const OptimizerOptions& options, double base) {
  if (const RateRule* rule = rule_for(parameter.name, options.rates)) return rule->learning_rate;
  if (parameter.block < 0) return base;
  return base * std::pow(options.layer_decay, static_cast<double>(parameter.stack_blocks - 1 - parameter.block));
}

void require_every_rule_matches(const std::vector<RateRule>& rules, const std::vector<TrainableParameter>& parameters) {
  std::vector<std::string> names;
  names.reserve(parameters.size());
  for (const TrainableParameter& parameter : parameters) names.push_back(parameter.name);
  for (const RateRule& rule : rules) {
    const auto matches = [&](const std::string& name) { return glob_match(rule.pattern, name); };
    if (std::any_of(names.begin(), names.end(), matches)) continue;
    throw UsageError(Problem{.where = "optimizer.rates",
                             .expected = "a pattern that matches a trainable parameter",
                             .found = fmt::format("'{}'", rule.pattern),
                             .fix = suggest(rule.pattern, names)});
  }
}

/// Zeros like `tensor` whose memory counts only once it is written to: before the first step a run may give up weights
/// that it has no use for.
at::Tensor untouched_zeros(const at::Tensor& tensor) {
  if (!tensor.is_cpu()) return at::zeros_like(tensor);
  void* memory = std::calloc(std::max<std::size_t>(tensor.nbytes(), 1), 1);
  if (memory == nullptr) throw std::bad_alloc();
  return at::from_blob(memory, tensor.sizes(), std::free, tensor.options().requires_grad(false));
}

std::string key(const std::string& parameter, const char* kind) { return fmt::format("state/{}/{}", parameter, kind); }

}  // namespace

AdamW::AdamW(const std::vector<TrainableParameter>& parameters, const OptimizerOptions& options,
             const TrainingPreset& preset)
    : base_rate_(options.learning_rate.value_or(preset.learning_rate)),
      beta1_(options.beta1.value_or(preset.beta1)),
      beta2_(options.beta2.value_or(preset.beta2)),
      eps_(options.eps.value_or(preset.eps)),
      weight_decay_(options.weight_decay.value_or(preset.weight_decay)) {
  require_every_rule_matches(options.rates, parameters);
  if (parameters.empty()) {
    throw UsageError(Problem{.where = "optimizer", .expected = "a trainable parameter", .found = "none"});
  }
  const at::NoGradGuard no_grad;
  steps_ =
      at::zeros({static_cast<std::int64_t>(parameters.size())}, parameters.front().tensor.options().dtype(at::kFloat));
  slots_.reserve(parameters.size());
  for (const TrainableParameter& parameter : parameters) {
    const double peak = peak_of(parameter, options, base_rate_);
    groups_[peak].members.push_back(slots_.size());
    slots_.push_back({parameter, untouched_zeros(parameter.tensor), untouched_zeros(parameter.tensor), peak});
  }
  for (auto& [peak, group] : groups_) group.rate = at::full({}, peak, at::kDouble);
}

void AdamW::restrict_to(const std::function<bool(const std::string&)>& trains) {
  const at::NoGradGuard no_grad;
  for (std::size_t index = 0; index < slots_.size(); ++index) {
    Slot& slot = slots_[index];
    const bool wanted = trains(slot.parameter.name);
    if (wanted == slot.exp_avg.defined()) continue;
    slot.exp_avg = wanted ? untouched_zeros(slot.parameter.tensor) : at::Tensor();
    slot.exp_avg_sq = wanted ? untouched_zeros(slot.parameter.tensor) : at::Tensor();
    steps_.select(0, static_cast<std::int64_t>(index)).zero_();
  }
}

void AdamW::set_factor(double factor) {
  for (auto& [peak, group] : groups_) group.rate.fill_(peak * factor);
}

void AdamW::hold_rates_on_device() {
  if (steps_.is_cpu()) return;  // there the kernel reads a float64 of the host
  for (auto& [peak, group] : groups_) group.rate = group.rate.to(steps_.device(), at::kFloat);
}

void AdamW::step(const at::Tensor& found_inf) {
  const at::NoGradGuard no_grad;
  count_updates(found_inf);
  for (const auto& [peak, group] : groups_) step_group(group, found_inf);
}

void AdamW::count_updates(const at::Tensor& found_inf) {
  std::vector<float> has_gradient;
  has_gradient.reserve(slots_.size());
  for (const Slot& slot : slots_) has_gradient.push_back(slot.parameter.tensor.grad().defined() ? 1.0F : 0.0F);
  if (has_gradient != counted_) {  // hardly ever changes: nothing is copied to the device in a usual step
    counted_on_device_ = at::tensor(has_gradient, at::kFloat).to(steps_.device());
    counted_ = std::move(has_gradient);
  }
  steps_.add_(counted_on_device_ * (1.0 - found_inf));
}

void AdamW::step_group(const Group& group, const at::Tensor& found_inf) {
  std::vector<at::Tensor> parameters, gradients, exp_avgs, exp_avg_sqs, steps;
  for (const std::size_t index : group.members) {
    const Slot& slot = slots_[index];
    if (!slot.parameter.tensor.grad().defined()) continue;
    parameters.push_back(slot.parameter.tensor);
    gradients.push_back(slot.parameter.tensor.grad());
    exp_avgs.push_back(slot.exp_avg);
    exp_avg_sqs.push_back(slot.exp_avg_sq);
    steps.push_back(steps_.select(0, static_cast<std::int64_t>(index)));
  }
  if (parameters.empty()) return;
  at::_fused_adamw_(parameters, gradients, exp_avgs, exp_avg_sqs, /*max_exp_avg_sqs=*/{}, steps, group.rate, beta1_,
                    beta2_, weight_decay_, eps_, /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{}, found_inf);
}

double AdamW::peak_rate(const std::string& name) const {
  std::vector<std::string> names;
  for (const Slot& slot : slots_) {
    if (slot.parameter.name == name) return slot.peak;
    names.push_back(slot.parameter.name);
  }
  throw UsageError(Problem{.where = name, .expected = "a trainable parameter", .fix = suggest(name, names)});
}

std::int64_t AdamW::state_bytes() const {
  std::int64_t bytes = static_cast<std::int64_t>(steps_.nbytes());
  for (const Slot& slot : slots_) {
    if (slot.exp_avg.defined()) bytes += static_cast<std::int64_t>(slot.exp_avg.nbytes() + slot.exp_avg_sq.nbytes());
  }
  return bytes;
}

std::map<std::string, at::Tensor> AdamW::state() const {
  std::map<std::string, at::Tensor> result;
  for (std::size_t index = 0; index < slots_.size(); ++index) {
    const Slot& slot = slots_[index];
    if (!slot.exp_avg.defined()) continue;
    result[key(slot.parameter.name, "exp_avg")] = slot.exp_avg;
    result[key(slot.parameter.name, "exp_avg_sq")] = slot.exp_avg_sq;
    result[key(slot.parameter.name, "step")] = steps_.select(0, static_cast<std::int64_t>(index));
  }
  return result;
}

void AdamW::load_state(const std::map<std::string, at::Tensor>& state) {
  copy_named_state(state, this->state(), "optimizer state");
}

}  // namespace thaw
