#include "thaw/train/ema.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "named_state_impl.h"

namespace thaw {

Ema::Ema(std::vector<TrainableParameter> parameters, const EmaOptions& options) : options_(options) {
  if (!options.enable) return;
  parameters_ = std::move(parameters);
  averages_.reserve(parameters_.size());
  for (const TrainableParameter& parameter : parameters_) averages_.push_back(parameter.tensor.detach().clone());
}

double Ema::decay(std::int64_t step) const {
  if (options_.decay) return *options_.decay;
  if (step <= 1) return 0.0;
  return std::clamp(1.0 - std::pow(static_cast<double>(step), -options_.power), 0.0, options_.max_decay);
}

void Ema::update(std::int64_t step, const at::Tensor& found_inf) {
  if (!enabled()) return;
  const at::NoGradGuard no_grad;
  const double weight = 1.0 - decay(step);
  const at::Tensor skip = found_inf > 0;
  for (std::size_t index = 0; index < averages_.size(); ++index) {
    at::Tensor& average = averages_[index];
    // where, not a weight of zero: -0 + 0 is +0, and a skipped step must leave every bit.
    average.copy_(at::where(skip, average, at::lerp(average, parameters_[index].tensor, weight)));
  }
}

std::map<std::string, at::Tensor> Ema::state() const {
  std::map<std::string, at::Tensor> result;
  for (std::size_t index = 0; index < averages_.size(); ++index) result[parameters_[index].name] = averages_[index];
  return result;
}

void Ema::load_state(const std::map<std::string, at::Tensor>& state) { copy_named_state(state, this->state(), "EMA"); }

void Ema::swap() {
  const at::NoGradGuard no_grad;
  for (std::size_t index = 0; index < averages_.size(); ++index) {
    const at::Tensor trained = parameters_[index].tensor.detach().clone();
    parameters_[index].tensor.copy_(averages_[index]);
    averages_[index].copy_(trained);
  }
}

}  // namespace thaw
