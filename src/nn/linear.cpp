#include "thaw/nn/linear.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

namespace thaw::nn {
namespace {

at::ScalarType at_least_float(at::ScalarType dtype) { return c10::promoteTypes(dtype, at::kFloat); }

}  // namespace

bool autocasts(const at::Tensor& x) { return at::autocast::is_autocast_enabled(x.device().type()); }

at::Tensor cast_for(const at::Tensor& parameter, const at::Tensor& x) {
  return autocasts(x) ? x : x.to(parameter.scalar_type());
}

Linear find_linear(const ParameterMap& parameters, const std::string& prefix) {
  Linear layer{.weight = find_parameter(parameters, prefix + ".weight")};
  if (const at::Tensor* bias = parameters.find(prefix + ".bias")) layer.bias = *bias;
  return layer;
}

at::Tensor linear(const at::Tensor& x, const Linear& layer) {
  if (autocasts(x)) return at::linear(x, layer.weight, layer.bias);
  const at::ScalarType dtype = layer.weight.scalar_type();
  // A bias that trains beside a frozen weight may be wider than it.
  const at::Tensor bias = layer.bias.defined() ? layer.bias.to(dtype) : layer.bias;
  return at::linear(x.to(dtype), layer.weight, bias);
}

at::Tensor rms_norm(const at::Tensor& x, const RmsNorm& norm) {
  const at::Tensor wide = x.to(at_least_float(x.scalar_type()));
  const at::Tensor scale = wide.square().mean(/*dim=*/-1, /*keepdim=*/true).add_(norm.eps).rsqrt_();
  return norm.weight * (wide * scale).to(x.scalar_type());
}

LayerNorm find_layer_norm(const ParameterMap& parameters, const std::string& prefix, double eps) {
  return {.weight = find_parameter(parameters, prefix + ".weight"),
          .bias = find_parameter(parameters, prefix + ".bias"),
          .eps = eps};
}

at::Tensor layer_norm(const at::Tensor& x, const LayerNorm& norm) {
  const at::Tensor bias = cast_for(norm.weight, norm.bias);
  return at::layer_norm(cast_for(norm.weight, x), norm.weight.sizes(), norm.weight, bias, norm.eps);
}

GatedMlp find_gated_mlp(const ParameterMap& parameters, const std::string& prefix) {
  return {.gate = find_linear(parameters, prefix + ".gate_proj"),
          .up = find_linear(parameters, prefix + ".up_proj"),
          .down = find_linear(parameters, prefix + ".down_proj")};
}

at::Tensor gated_mlp(const at::Tensor& x, const GatedMlp& mlp) {
  return linear(at::silu(linear(x, mlp.gate)) * linear(x, mlp.up), mlp.down);
}

}  // namespace thaw::nn
