#include "thaw/train/gradients.h"

#include <ATen/ATen.h>

namespace thaw {
namespace {

std::vector<at::Tensor> gradients_of(const std::vector<TrainableParameter>& parameters,
                                     const std::vector<std::size_t>& members) {
  std::vector<at::Tensor> gradients;
  gradients.reserve(members.size());
  for (const std::size_t index : members) gradients.push_back(parameters[index].tensor.grad());
  return gradients;
}

/// 1 where a norm says "finite and not all zero".
at::Tensor effective_norms(const at::Tensor& norms) {
  return at::isfinite(norms).logical_and(norms > 0).to(at::kFloat);
}

}  // namespace

GradientNorms gradient_norms(const std::vector<TrainableParameter>& parameters) {
  const at::NoGradGuard no_grad;
  GradientNorms norms;
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    if (parameters[index].tensor.grad().defined()) norms.members.push_back(index);
  }
  if (norms.members.empty()) {
    norms.each = at::zeros({0}, parameters.at(0).tensor.options().dtype(at::kFloat).requires_grad(false));
  } else {
    std::vector<at::Tensor> each = at::_foreach_norm(gradients_of(parameters, norms.members), 2);
    for (at::Tensor& norm : each) norm = norm.to(at::kFloat);
    norms.each = at::stack(each);
  }
  norms.total = at::linalg_vector_norm(norms.each, 2);
  return norms;
}

void clip_gradients(const std::vector<TrainableParameter>& parameters, const GradientNorms& norms, double max_norm) {
  if (max_norm <= 0.0 || norms.members.empty()) return;
  const at::NoGradGuard no_grad;
  constexpr double kEpsilon = 1e-6;
  const at::Tensor coefficient = (max_norm / (norms.total + kEpsilon)).clamp_max(1.0);
  std::vector<at::Tensor> gradients = gradients_of(parameters, norms.members);
  at::_foreach_mul_(gradients, coefficient);
}

void drop_gradients(const std::vector<TrainableParameter>& parameters) {
  for (const TrainableParameter& parameter : parameters) parameter.tensor.mutable_grad().reset();
}

GradientRecord::GradientRecord(std::size_t parameters, at::Device device)
    : seen_(parameters, false),
      effective_(at::zeros({static_cast<std::int64_t>(parameters)}, at::TensorOptions(at::kFloat).device(device))) {}

void GradientRecord::note(const GradientNorms& norms) {
  const at::NoGradGuard no_grad;
  for (const std::size_t index : norms.members) seen_[index] = true;
  if (norms.members.size() == seen_.size()) {
    effective_.copy_(at::maximum(effective_, effective_norms(norms.each)));
    return;
  }
  if (norms.members != members_) {  // hardly ever changes: nothing is copied to the device in a usual step
    members_ = norms.members;
    const std::vector<std::int64_t> members(members_.begin(), members_.end());
    members_on_device_ = at::tensor(members, at::kLong).to(effective_.device());
  }
  const at::Tensor before = effective_.index_select(0, members_on_device_);
  effective_.index_copy_(0, members_on_device_, at::maximum(before, effective_norms(norms.each)));
}

std::vector<GradientRecord::Flags> GradientRecord::flags() const {
  const at::Tensor effective = effective_.cpu();
  const float* values = effective.const_data_ptr<float>();
  std::vector<Flags> result(seen_.size());
  for (std::size_t index = 0; index < seen_.size(); ++index) {
    result[index] = {.seen = seen_[index], .effective = values[index] > 0.0F};
  }
  return result;
}

void GradientRecord::load(const std::vector<Flags>& flags) {
  std::vector<float> effective(seen_.size(), 0.0F);
  for (std::size_t index = 0; index < seen_.size(); ++index) {
    seen_[index] = flags.at(index).seen;
    effective[index] = flags.at(index).effective ? 1.0F : 0.0F;
  }
  effective_ = at::tensor(effective, at::kFloat).to(effective_.device());
}

}  // namespace thaw
