#include "thaw/nn/gemma.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include "inverse_rms_impl.h"
#include "thaw/tensor/dtype.h"

namespace thaw::nn {
namespace {

/// x / rms(x) · factor + shift as one node: it keeps its input, one number a row and the factor.
/// x (B, K, L, D); factor and shift (B, K, 1, D)
class Modulated : public torch::autograd::Function<Modulated> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& factor,
                            const at::Tensor& shift, double eps) {
    const at::Tensor scale = inverse_rms(x, eps);
    context->save_for_backward({x, factor, scale});
    context->saved_data["of_x"] = x.requires_grad();
    context->saved_data["of_factor"] = factor.requires_grad();
    context->saved_data["of_shift"] = shift.requires_grad();
    return (x * scale).mul_(factor).add_(shift);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor& gradient = gradients.at(0);
    const at::Tensor& scale = saved.at(2);
    const at::Tensor normed = saved.at(0) * scale;
    torch::autograd::variable_list result(4);
    if (context->saved_data["of_shift"].toBool()) result[2] = gradient.sum(2, /*keepdim=*/true);
    if (context->saved_data["of_factor"].toBool()) result[1] = (gradient * normed).sum(2, /*keepdim=*/true);
    if (context->saved_data["of_x"].toBool()) {
      const at::Tensor inner = gradient * saved.at(1);
      const at::Tensor along = (inner * normed).mean(-1, /*keepdim=*/true);
      result[0] = inner.sub_(normed.mul(along)).mul_(scale);
    }
    return result;
  }
};

/// (B, L, D) -> (B, K, L / K, D), a view.
at::Tensor by_condition(const at::Tensor& x, std::int64_t conditions) {
  return x.view({x.size(0), conditions, x.size(1) / conditions, x.size(2)});
}

GemmaNormed adaptive_norm(const at::Tensor& x, const GemmaNorm& norm, const at::Tensor& condition) {
  const at::ScalarType wide = at_least_float(x.scalar_type());
  const std::vector<at::Tensor> thirds = linear(condition, norm.modulation).unsqueeze(2).chunk(3, -1);
  const at::Tensor rows = by_condition(x.to(wide), condition.size(1));
  const at::Tensor factor = thirds[0].to(wide) + 1.0;
  const at::Tensor normed = Modulated::apply(rows, factor, thirds[1].to(wide), norm.eps);
  return {.rows = normed.view(x.sizes()).to(x.scalar_type()), .gate = thirds[2].to(x.scalar_type())};
}

/// x + branch, the branch multiplied by `gate` where there is one.
at::Tensor residual_sum(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& gate) {
  if (!gate.defined()) return x + branch;
  const std::int64_t conditions = gate.size(1);
  const at::Tensor gated = by_condition(branch, conditions) * gate;
  return x + gated.view(branch.sizes());
}

bool is_plain_sum(const at::Tensor& x, const Linear& last, const at::Tensor& gate) {
  return !gate.defined() && !autocasts(x) && x.scalar_type() == last.weight.scalar_type();
}

class ZeroGradient : public torch::autograd::Function<ZeroGradient> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& parameter) {
    context->save_for_backward({parameter});
    return x.view_as(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    return {gradients.at(0), at::zeros_like(context->get_saved_variables().at(0))};
  }
};

}  // namespace

at::Tensor gemma_rotary_table(const at::Tensor& positions, std::int64_t head_dim, double base, bool rounded) {
  const auto options = positions.options().dtype(at::kFloat);
  const at::Tensor exponents = at::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  at::Tensor frequency = at::pow(base, exponents).reciprocal();
  if (rounded) frequency = frequency.to(at::kBFloat16).to(at::kFloat);
  const at::Tensor angles = positions.unsqueeze(-1).to(at::kFloat) * frequency;
  return at::cat({angles.cos(), angles.sin()}, -1);
}

GemmaNorm find_gemma_norm(const ParameterMap& parameters, const std::string& prefix, double eps) {
  if (const at::Tensor* weight = parameters.find(prefix + ".weight")) return {.weight = *weight, .eps = eps};
  return {.modulation = find_linear(parameters, prefix + ".dense"), .eps = eps};
}

GemmaNormed gemma_norm(const at::Tensor& x, const GemmaNorm& norm, const at::Tensor& condition) {
  if (norm.adaptive()) return adaptive_norm(x, norm, condition);
  const at::ScalarType wide = at_least_float(x.scalar_type());
  const RmsNorm offset{.weight = norm.weight.to(wide) + 1.0, .eps = norm.eps};
  return {.rows = rms_norm(x.to(wide), offset).to(x.scalar_type())};
}

GemmaBlock find_gemma_block(const ParameterMap& parameters, const std::string& prefix, std::int64_t head_dim,
                            double eps) {
  const std::string attention = prefix + ".self_attn";
  GatedMlp mlp = find_gated_mlp(parameters, prefix + ".mlp");
  mlp.activation = GateActivation::gelu_tanh;
  return {.input_norm = find_gemma_norm(parameters, prefix + ".input_layernorm", eps),
          .layers = {.query = find_linear(parameters, attention + ".q_proj"),
                     .key = find_linear(parameters, attention + ".k_proj"),
                     .value = find_linear(parameters, attention + ".v_proj"),
                     .output = find_linear(parameters, attention + ".o_proj"),
                     .mlp = std::move(mlp),
                     .head_dim = head_dim},
          .post_attention_norm = find_gemma_norm(parameters, prefix + ".post_attention_layernorm", eps)};
}

at::Tensor gemma_finish(const GemmaBlock& block, const at::Tensor& x, const at::Tensor& attended,
                        const at::Tensor& gate, const at::Tensor& condition) {
  const Linear& output = block.layers.output;
  const at::Tensor residual =
      is_plain_sum(x, output, gate) ? linear_add(attended, output, x) : residual_sum(x, linear(attended, output), gate);
  const GemmaNormed normed = gemma_norm(residual, block.post_attention_norm, condition);
  const at::Tensor branch = gated_mlp(normed.rows, block.layers.mlp);
  if (is_plain_sum(residual, block.layers.mlp.down, normed.gate)) return at::Tensor(branch).add_(residual);
  return residual_sum(residual, branch, normed.gate);
}

at::Tensor with_zero_gradient(const at::Tensor& x, const at::Tensor& parameter) {
  if (!parameter.requires_grad() || !at::GradMode::is_enabled()) return x;
  return ZeroGradient::apply(x, parameter);
}

}  // namespace thaw::nn
