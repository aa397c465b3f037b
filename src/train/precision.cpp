#include "thaw/train/precision.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "thaw/tensor/device.h"

namespace thaw {
namespace {

// torch.amp.GradScaler's defaults.
constexpr double kFirstScale = 65536.0;
constexpr double kGrowth = 2.0;
constexpr double kBackoff = 0.5;
constexpr std::int64_t kGrowthInterval = 2000;

/// The module's parameters, the smallest first.
std::vector<std::pair<std::string, at::Tensor>> smallest_first(const torch::nn::Module& module) {
  std::vector<std::pair<std::string, at::Tensor>> parameters = module.named_parameters().pairs();
  std::stable_sort(parameters.begin(), parameters.end(),
                   [](const auto& a, const auto& b) { return a.second.numel() < b.second.numel(); });
  return parameters;
}

bool is_convertible(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
}

}  // namespace

Precision resolve_precision(Precision precision, at::Device device) {
  if (precision != Precision::automatic) return precision;
  return has_native_bf16(device) ? Precision::bf16 : Precision::fp32;
}

at::ScalarType compute_dtype(Precision precision) {
  switch (precision) {
    case Precision::bf16:
      return at::kBFloat16;
    case Precision::fp16:
      return at::kHalf;
    default:
      return at::kFloat;
  }
}

void cast_parameters(const FreezePlan& plan, torch::nn::Module& module, Precision precision) {
  const at::NoGradGuard no_grad;
  const at::ScalarType frozen = compute_dtype(precision);
  // A large one then finds the room that the others gave up, and no two forms of it are there on top of everything.
  for (auto& [name, parameter] : smallest_first(module)) {
    if (!is_convertible(parameter.scalar_type())) continue;
    // Only what is multiplied gains by a short type. Norm weights and biases stay float32: they weigh nothing, and a
    // layer norm on the CPU takes float32 weights for any input but no mix the other way round.
    const bool is_multiplied = parameter.dim() >= 2;
    const at::ScalarType wanted = plan.trains(name) || !is_multiplied ? at::kFloat : frozen;
    if (parameter.scalar_type() != wanted) parameter.set_data(parameter.detach().to(wanted));
  }
}

AutocastScope::AutocastScope(Precision precision, at::Device device)
    : device_(device.type()),
      was_enabled_(at::autocast::is_autocast_enabled(device_)),
      was_dtype_(at::autocast::get_autocast_dtype(device_)) {
  const bool enable = precision == Precision::bf16 || precision == Precision::fp16;
  if (enable) at::autocast::set_autocast_dtype(device_, compute_dtype(precision));
  at::autocast::set_autocast_enabled(device_, enable);
  at::autocast::increment_nesting();
}

AutocastScope::~AutocastScope() {
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, was_enabled_);
  at::autocast::set_autocast_dtype(device_, was_dtype_);
}

LossScaler::LossScaler(Precision precision, at::Device device)
    : enabled_(precision == Precision::fp16),
      scale_(at::full({}, enabled_ ? kFirstScale : 1.0, at::TensorOptions(at::kFloat).device(device))),
      growth_(at::zeros({}, at::TensorOptions(at::kInt).device(device))) {}

at::Tensor LossScaler::scale(const at::Tensor& loss) const { return enabled_ ? loss * scale_ : loss; }

at::Tensor LossScaler::unscale(std::vector<at::Tensor> gradients) const {
  if (!enabled_) return {};
  const at::NoGradGuard no_grad;
  at::Tensor found_inf = at::zeros({}, scale_.options());
  const at::Tensor inverse = scale_.to(at::kDouble).reciprocal().to(at::kFloat);
  if (!gradients.empty()) at::_amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inverse);
  return found_inf;
}

void LossScaler::update(const at::Tensor& found_inf) {
  if (!enabled_) return;
  const at::NoGradGuard no_grad;
  at::_amp_update_scale_(scale_, growth_, found_inf, kGrowth, kBackoff, kGrowthInterval);
}

LossScaler::State LossScaler::state() const {
  return {.scale = scale_.item<double>(), .growth_tracker = growth_.item<std::int64_t>()};
}

void LossScaler::load(const State& state) {
  scale_.fill_(state.scale);
  growth_.fill_(state.growth_tracker);
}

}  // namespace thaw
