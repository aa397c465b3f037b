#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <algorithm>
#include <array>

#include "product_impl.h"
#include "thaw/nn/linear.h"

namespace thaw::nn {
namespace {

at::Tensor activated(const at::Tensor& x, GateActivation activation) {
  return activation == GateActivation::silu ? at::silu(x) : at::gelu(x, "tanh");
}

at::Tensor activated_backward(const at::Tensor& gradient, const at::Tensor& x, GateActivation activation) {
  return activation == GateActivation::silu ? at::silu_backward(gradient, x) : at::gelu_backward(gradient, x, "tanh");
}

/// The MLP as one node that keeps what gate and up give; the activation and the product are computed again for
/// backward, which halves what a block holds of its widest tensors.
class GatedProduct : public torch::autograd::Function<GatedProduct> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& gate,
                            const at::Tensor& up, const at::Tensor& down, GateActivation activation) {
    const at::Tensor gated = onednn::linear(x, gate, {});
    const at::Tensor raised = onednn::linear(x, up, {});
    const bool input_is_needed = gate.requires_grad() || up.requires_grad();
    context->save_for_backward({input_is_needed ? x : at::Tensor(), gated, raised, gate, up, down});
    context->saved_data["of_x"] = x.requires_grad();
    context->saved_data["activation"] = static_cast<std::int64_t>(activation);
    return onednn::linear(activated(gated, activation).mul_(raised), down, {});
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved.at(0);
    const at::Tensor& gated = saved.at(1);
    const at::Tensor& raised = saved.at(2);
    const at::Tensor& gate = saved.at(3);
    const at::Tensor& up = saved.at(4);
    const at::Tensor& down = saved.at(5);
    const auto activation = static_cast<GateActivation>(context->saved_data["activation"].toInt());
    at::Tensor active = activated(gated, activation);
    const bool of_x = context->saved_data["of_x"].toBool();
    torch::autograd::variable_list result(5);
    if (down.requires_grad()) result[3] = gradient_of_weight(gradients.at(0), active * raised);
    if (!of_x && !x.defined()) return result;
    const at::Tensor inner = gradient_of_input(gradients.at(0), down);
    const at::Tensor of_gated = activated_backward(inner * raised, gated, activation);
    const at::Tensor of_raised = active.mul_(inner);
    if (gate.requires_grad()) result[1] = gradient_of_weight(of_gated, x);
    if (up.requires_grad()) result[2] = gradient_of_weight(of_raised, x);
    if (of_x) result[0] = gradient_of_input(of_gated, gate).add_(gradient_of_input(of_raised, up));
    return result;
  }
};

/// activation(gate) · up as one node that keeps its two inputs: what a low-rank update of the layers around it leaves
/// of GatedProduct.
class ActivatedProduct : public torch::autograd::Function<ActivatedProduct> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& gate, const at::Tensor& up,
                            GateActivation activation) {
    context->save_for_backward({gate, up});
    context->saved_data["activation"] = static_cast<std::int64_t>(activation);
    return activated(gate, activation).mul_(up);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const auto activation = static_cast<GateActivation>(context->saved_data["activation"].toInt());
    const at::Tensor& gradient = gradients.at(0);
    const at::Tensor of_gate = activated_backward(gradient * saved.at(1), saved.at(0), activation);
    return {of_gate, activated(saved.at(0), activation).mul_(gradient), at::Tensor()};
  }
};

bool has_low_rank(const GatedMlp& mlp) {
  return mlp.gate.low_rank.defined() || mlp.up.low_rank.defined() || mlp.down.low_rank.defined();
}

bool is_one_node(const at::Tensor& x, const GatedMlp& mlp) {
  const std::array<const Linear*, 3> layers{&mlp.gate, &mlp.up, &mlp.down};
  const bool plain = std::all_of(layers.begin(), layers.end(), [&x](const Linear* layer) {
    return !layer->bias.defined() && !layer->low_rank.defined() && onednn::takes(x, layer->weight);
  });
  const bool has_graph = x.requires_grad() || std::any_of(layers.begin(), layers.end(), [](const Linear* layer) {
                           return layer->weight.requires_grad();
                         });
  return plain && has_graph && at::GradMode::is_enabled() && !autocasts(x);
}

}  // namespace

GatedMlp find_gated_mlp(const ParameterMap& parameters, const std::string& prefix) {
  return {.gate = find_linear(parameters, prefix + ".gate_proj"),
          .up = find_linear(parameters, prefix + ".up_proj"),
          .down = find_linear(parameters, prefix + ".down_proj")};
}

at::Tensor gated_mlp(const at::Tensor& x, const GatedMlp& mlp) {
  if (is_one_node(x, mlp)) {
    return GatedProduct::apply(x, mlp.gate.weight, mlp.up.weight, mlp.down.weight, mlp.activation);
  }
  if (has_low_rank(mlp) && at::GradMode::is_enabled() && !autocasts(x)) {
    return linear(ActivatedProduct::apply(linear(x, mlp.gate), linear(x, mlp.up), mlp.activation), mlp.down);
  }
  const at::Tensor gate = mlp.activation == GateActivation::silu ? linear_silu(x, mlp.gate) : linear_gelu(x, mlp.gate);
  return linear(gate * linear(x, mlp.up), mlp.down);
}

}  // namespace thaw::nn
