#include <ATen/ATen.h>

#include "low_rank_impl.h"

namespace thaw::nn {
namespace {

/// (x Aᵀ) Bᵀ in the dtype of A.
at::Tensor update(const at::Tensor& x, const LowRank& low_rank) {
  return linear(linear(x, {.weight = low_rank.a}), {.weight = low_rank.b});
}

/// ||W + scale · B A|| of each row, (out): a constant to backward (DoRA, section 4.3).
at::Tensor row_norms(const Linear& layer) {
  const LowRank& low_rank = layer.low_rank;
  const at::NoGradGuard no_grad;
  const at::Tensor weight = layer.weight.to(low_rank.a.scalar_type());
  return at::mm(low_rank.b, low_rank.a).mul_(low_rank.scale).add_(weight).norm(2, 1);
}

}  // namespace

std::string low_rank_scale_name(const std::string& prefix) { return prefix + ".lora_scale"; }

LowRank find_low_rank(const ParameterMap& parameters, const std::string& prefix) {
  const at::Tensor* a = parameters.find(prefix + ".lora_A.weight");
  if (a == nullptr) return {};
  LowRank low_rank{.a = *a, .b = find_parameter(parameters, prefix + ".lora_B.weight")};
  if (const at::Tensor* magnitude = parameters.find(prefix + ".lora_magnitude_vector")) low_rank.magnitude = *magnitude;
  low_rank.scale = find_parameter(parameters, low_rank_scale_name(prefix)).item<double>();
  return low_rank;
}

at::Tensor with_low_rank(const at::Tensor& x, const Linear& layer, const at::Tensor& product) {
  const LowRank& low_rank = layer.low_rank;
  const at::Tensor added = update(x, low_rank);
  if (!low_rank.magnitude.defined()) return at::add(product, added, low_rank.scale).to(product.scalar_type());
  const at::Tensor factor = low_rank.magnitude / row_norms(layer);
  const at::Tensor without_bias = layer.bias.defined() ? product - layer.bias : product;
  const at::Tensor change = (factor - 1.0) * without_bias + factor * added * low_rank.scale;
  return (product + change).to(product.scalar_type());
}

}  // namespace thaw::nn
