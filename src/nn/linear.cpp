#include "thaw/nn/linear.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/autograd.h>

#include <optional>

#include "low_rank_impl.h"
#include "product_impl.h"

namespace thaw::nn {
namespace {

/// The product with its two gradients through oneDNN. Keeps for backward only what the gradients that are asked for
/// need: nothing of a frozen weight's input, nothing of a weight whose input needs no gradient.
class Product : public torch::autograd::Function<Product> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->save_for_backward({weight.requires_grad() ? x : at::Tensor(), x.requires_grad() ? weight : at::Tensor()});
    context->saved_data["bias"] = bias && bias->requires_grad();
    return onednn::linear(x, weight, bias.value_or(at::Tensor()));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor& gradient = gradients.at(0);
    at::Tensor of_x;
    at::Tensor of_weight;
    at::Tensor of_bias;
    if (saved.at(1).defined()) of_x = gradient_of_input(gradient, saved.at(1));
    if (saved.at(0).defined()) of_weight = gradient_of_weight(gradient, saved.at(0));
    if (context->saved_data["bias"].toBool()) of_bias = as_rows(gradient).sum(0);
    return {of_x, of_weight, of_bias};
  }
};

bool needs_graph(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

bool needs_graph(const at::Tensor& x, const Linear& layer) {
  return at::GradMode::is_enabled() && (needs_graph(x) || needs_graph(layer.weight) || needs_graph(layer.bias));
}

/// x Wᵀ + b alone.
at::Tensor plain_linear(const at::Tensor& x, const Linear& layer) {
  if (autocasts(x)) return at::linear(x, layer.weight, layer.bias);
  const at::ScalarType dtype = layer.weight.scalar_type();
  // A bias that trains beside a frozen weight may be wider than it.
  const at::Tensor bias = layer.bias.defined() ? layer.bias.to(dtype) : layer.bias;
  const at::Tensor input = x.to(dtype);
  if (!onednn::takes(input, layer.weight)) return at::linear(input, layer.weight, bias);
  if (needs_graph(x, layer)) {
    return Product::apply(input, layer.weight, bias.defined() ? std::optional(bias) : std::nullopt);
  }
  return onednn::linear(input, layer.weight, bias);
}

/// Whether a product may take what follows it along: nothing is kept for a backward pass, and oneDNN does it.
bool may_fuse(const at::Tensor& x, const Linear& layer) {
  return !autocasts(x) && !layer.low_rank.defined() && !needs_graph(x, layer) && onednn::takes(x, layer.weight) &&
         (!layer.bias.defined() || layer.bias.scalar_type() == at::kFloat);
}

}  // namespace

bool autocasts(const at::Tensor& x) { return at::autocast::is_autocast_enabled(x.device().type()); }

at::Tensor cast_for(const at::Tensor& parameter, const at::Tensor& x) {
  return autocasts(x) ? x : x.to(parameter.scalar_type());
}

Linear find_linear(const ParameterMap& parameters, const std::string& prefix) {
  Linear layer{.weight = find_parameter(parameters, prefix + ".weight")};
  if (const at::Tensor* bias = parameters.find(prefix + ".bias")) layer.bias = *bias;
  layer.low_rank = find_low_rank(parameters, prefix);
  return layer;
}

at::Tensor linear(const at::Tensor& x, const Linear& layer) {
  const at::Tensor product = plain_linear(x, layer);
  return layer.low_rank.defined() ? with_low_rank(x, layer, product) : product;
}

at::Tensor linear_gelu(const at::Tensor& x, const Linear& layer) {
  if (may_fuse(x, layer)) return onednn::linear(x, layer.weight, layer.bias, onednn::Activation::gelu_tanh);
  return at::gelu(linear(x, layer), "tanh");
}

at::Tensor linear_silu(const at::Tensor& x, const Linear& layer) {
  if (may_fuse(x, layer)) return onednn::linear(x, layer.weight, layer.bias, onednn::Activation::silu);
  return at::silu(linear(x, layer));
}

at::Tensor linear_add(const at::Tensor& x, const Linear& layer, const at::Tensor& residual) {
  const bool fits = residual.scalar_type() == at::kFloat && !(at::GradMode::is_enabled() && residual.requires_grad());
  if (fits && may_fuse(x, layer)) return onednn::linear_add(x, layer.weight, layer.bias, residual);
  return linear(x, layer).add_(residual);
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

}  // namespace thaw::nn
