#include <torch/nn/module.h>

#include <set>

#include "frozen_witness_impl.h"
#include "released_weights_impl.h"
#include "thaw/tensor/digest.h"
#include "thaw/train/parameters.h"

namespace thaw {
namespace {

std::map<std::string, at::Tensor> tensors_of(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& item : module.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) {
    if (item.value().defined()) tensors[item.key()] = item.value();
  }
  return tensors;
}

}  // namespace

FrozenWitness::FrozenWitness(const FreezePlan& plan, const torch::nn::Module& module) {
  std::set<std::string> changing;
  for (const TrainableParameter& parameter : trainable_parameters(plan, module)) changing.insert(parameter.name);
  for (const TrainableParameter& buffer : trained_buffers(plan, module)) changing.insert(buffer.name);
  const auto planned = plan.by_name();
  for (const auto& [name, tensor] : tensors_of(module)) {
    if (changing.contains(name) || plan.trains(name)) continue;
    const auto known = planned.find(name);
    const bool as_planned =
        known != planned.end() && !known->second->digest.empty() && known->second->dtype == tensor.scalar_type();
    digests_[name] = as_planned ? known->second->digest : tensor_digest(tensor);
  }
}

std::vector<std::string> FrozenWitness::moved(const torch::nn::Module& module) const {
  const std::map<std::string, at::Tensor> now = tensors_of(module);
  std::vector<std::string> names;
  for (const auto& [name, digest] : digests_) {
    const auto found = now.find(name);
    // Weights that training has no use for are not in memory: nothing can have moved them, and they are compared when
    // they come back.
    if (found != now.end() && is_released(found->second)) continue;
    if (found == now.end() || tensor_digest(found->second) != digest) names.push_back(name);
  }
  return names;
}

}  // namespace thaw
