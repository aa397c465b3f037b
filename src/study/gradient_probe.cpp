#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>

#include "gradient_probe_impl.h"
#include "thaw/tensor/dtype.h"

namespace thaw {

double square_sum(const at::Tensor& tensor) {
  return tensor.to(at_least_float(tensor.scalar_type())).square().sum(at::kDouble).item<double>();
}

std::vector<BlockParameter> block_parameters(const torch::nn::Module& module, const ModelLayout& layout,
                                             const std::vector<BlockStack>& stacks) {
  const auto named = module.named_parameters();
  std::vector<BlockParameter> parameters;
  for (const ParameterInfo& info : layout.parameters) {
    const bool measured =
        std::any_of(stacks.begin(), stacks.end(), [&info](const BlockStack& s) { return s.name == info.stack; });
    if (measured) parameters.push_back({.stack = info.stack, .block = info.block, .tensor = named[info.name]});
  }
  return parameters;
}

void GradientProbe::add(const std::vector<at::Tensor>& gradients) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradients[i].defined()) continue;
    const at::Tensor gradient = gradients[i].to(at::kFloat);
    fisher_[{parameters_[i].stack, parameters_[i].block}] += square_sum(gradient);
    batch_[i] = batch_[i].defined() ? batch_[i].add_(gradient) : gradient.clone();
  }
  ++samples_;
  if (++in_batch_ == batch_size_) end_batch();
}

void GradientProbe::end_batch() {
  PerBlock gradients;
  PerBlock weights;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const std::pair place{parameters_[i].stack, parameters_[i].block};
    weights[place] += square_sum(parameters_[i].tensor.detach());
    if (batch_[i].defined()) gradients[place] += square_sum(batch_[i] / static_cast<double>(in_batch_));
    batch_[i] = at::Tensor();
  }
  for (const auto& [place, square] : gradients) relative_[place] += std::sqrt(square / weights.at(place));
  in_batch_ = 0;
  ++batches_;
}

void GradientProbe::finish(StackMeasures& measures) {
  if (in_batch_ > 0) end_batch();
  for (std::int64_t block = 0; block < measures.blocks; ++block) {
    const std::pair place{measures.name, block};
    measures.relative_gradient.push_back(relative_[place] / static_cast<double>(batches_));
    measures.fisher.push_back(fisher_[place] / static_cast<double>(samples_));
  }
}

}  // namespace thaw
