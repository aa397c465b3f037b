#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <algorithm>
#include <array>
#include <map>

#include "checkpointed_stages_impl.h"
#include "thaw/policy/run.h"

namespace thaw {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

variable_list outputs_of(const Stage& stage, std::span<const at::Tensor> inputs) {
  PrefixState local;
  for (std::size_t i = 0; i < inputs.size(); ++i) local.set(stage.info.reads[i], inputs[i]);
  stage.run(local);
  variable_list outputs;
  for (const std::string& key : stage.info.writes) outputs.push_back(local.at(key));
  return outputs;
}

/// One stage as one node. `anchor` needs a gradient, so that there is a node even where no input needs one.
class Checkpointed : public torch::autograd::Function<Checkpointed> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& /*anchor*/, at::TensorList inputs,
                               const Stage* stage, Precision precision) {
    context->save_for_backward(inputs.vec());
    context->saved_data["stage"] = reinterpret_cast<std::int64_t>(stage);
    context->saved_data["precision"] = static_cast<std::int64_t>(precision);
    variable_list outputs = outputs_of(*stage, context_inputs(inputs));
    variable_list plain;
    for (at::Tensor& output : outputs) {
      // A stage may hand an input on; a node may not.
      if (std::any_of(inputs.begin(), inputs.end(), [&](const at::Tensor& input) { return input.is_same(output); })) {
        output = output.clone();
      }
      if (!output.is_floating_point()) plain.push_back(output);
    }
    context->mark_non_differentiable(plain);
    return outputs;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto* stage = reinterpret_cast<const Stage*>(context->saved_data["stage"].toInt());
    const auto precision = static_cast<Precision>(context->saved_data["precision"].toInt());
    variable_list inputs;
    for (const at::Tensor& saved : context->get_saved_variables()) {
      inputs.push_back(saved.detach().set_requires_grad(saved.requires_grad()));
    }
    run_backward(*stage, inputs, gradients, precision);
    variable_list result{at::Tensor()};
    for (const at::Tensor& input : inputs) result.push_back(input.grad());
    result.resize(result.size() + 2);  // the stage and the precision have none
    return result;
  }

 private:
  static std::span<const at::Tensor> context_inputs(at::TensorList inputs) { return {inputs.data(), inputs.size()}; }

  /// Runs the stage with a graph and through it: gradients of its parameters arrive where they belong.
  static void run_backward(const Stage& stage, const variable_list& inputs, const variable_list& gradients,
                           Precision precision) {
    const at::AutoGradMode with_graph(true);
    variable_list outputs;
    {
      const AutocastScope autocast(precision, inputs.front().device());
      outputs = outputs_of(stage, inputs);
    }
    variable_list roots;
    variable_list of_roots;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!gradients[i].defined() || !outputs[i].requires_grad()) continue;
      roots.push_back(outputs[i]);
      of_roots.push_back(gradients[i]);
    }
    if (!roots.empty()) torch::autograd::backward(roots, of_roots);
  }
};

Stage checkpointed(const Stage& stage, Precision precision) {
  return {.info = stage.info, .run = [&stage, precision](PrefixState& state) {
            variable_list inputs;
            for (const std::string& key : stage.info.reads) inputs.push_back(state.at(key));
            const at::Tensor anchor = at::zeros({1}, inputs.front().options().dtype(at::kFloat)).requires_grad_();
            variable_list outputs = Checkpointed::apply(anchor, at::TensorList(inputs), &stage, precision);
            for (std::size_t i = 0; i < outputs.size(); ++i) state.set(stage.info.writes[i], std::move(outputs[i]));
          }};
}

}  // namespace

void run_checkpointed_stages(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state,
                             Precision precision) {
  std::vector<Stage> again(line.begin(), line.end());
  for (std::size_t i = from; i < to; ++i) again[i] = checkpointed(line[i], precision);
  run_stages_once(again, from, to, state);
}

}  // namespace thaw
