#include "thaw/train/parameters.h"

#include <torch/nn/module.h>

#include <map>
#include <set>

#include "thaw/core/error.h"

namespace thaw {
namespace {

std::string join(const std::string& path, const std::string& name) { return path.empty() ? name : path + "." + name; }

/// The module itself under "" and everything below it under its path.
template <class Visit>
void for_each_module(const torch::nn::Module& module, const std::string& path, const Visit& visit) {
  visit(path, module);
  for (const auto& child : module.named_children()) for_each_module(*child.value(), join(path, child.key()), visit);
}

std::set<std::string> trainable_names(const FreezePlan& plan) {
  const std::vector<std::string> names = plan.names(ParameterClass::trainable);
  return {names.begin(), names.end()};
}

bool owns_trainable(const std::set<std::string>& trainable, const std::string& path, const torch::nn::Module& module) {
  const auto parameters = module.named_parameters(/*recurse=*/false);
  return std::any_of(parameters.begin(), parameters.end(),
                     [&](const auto& item) { return trainable.contains(join(path, item.key())); });
}

bool all_frozen(const std::set<std::string>& trainable, const std::string& path, const torch::nn::Module& module) {
  const auto parameters = module.named_parameters();
  // A module without parameters (a dropout) follows the block it is in.
  if (parameters.is_empty()) return false;
  return std::none_of(parameters.begin(), parameters.end(),
                      [&](const auto& item) { return trainable.contains(join(path, item.key())); });
}

}  // namespace

std::vector<TrainableParameter> trainable_parameters(const FreezePlan& plan, const torch::nn::Module& module) {
  const auto tensors = module.named_parameters();
  std::map<std::string, std::int64_t> stack_sizes;
  for (const StackPlan& stack : plan.stacks) stack_sizes[stack.name] = stack.blocks;
  std::set<const void*> seen;
  std::vector<TrainableParameter> result;
  for (const PlannedParameter& planned : plan.parameters) {
    if (planned.parameter_class != ParameterClass::trainable) continue;
    const at::Tensor* tensor = tensors.find(planned.name);
    if (tensor == nullptr) {
      throw MismatchError(Problem{.where = planned.name, .expected = "a parameter of the module", .found = "none"});
    }
    if (!seen.insert(tensor->unsafeGetTensorImpl()).second) continue;
    result.push_back({.name = planned.name,
                      .tensor = *tensor,
                      .block = planned.block,
                      .stack_blocks = planned.stack.empty() ? 0 : stack_sizes[planned.stack]});
  }
  return result;
}

std::vector<TrainableParameter> trained_buffers(const FreezePlan& plan, const torch::nn::Module& module) {
  const std::set<std::string> trainable = trainable_names(plan);
  std::vector<TrainableParameter> result;
  for_each_module(module, "", [&](const std::string& path, const torch::nn::Module& part) {
    if (!owns_trainable(trainable, path, part)) return;
    for (const auto& buffer : part.named_buffers(/*recurse=*/false)) {
      if (buffer.value().defined()) result.push_back({.name = join(path, buffer.key()), .tensor = buffer.value()});
    }
  });
  return result;
}

std::vector<std::string> modules_not_in_eval(const FreezePlan& plan, const torch::nn::Module& module) {
  const std::set<std::string> trainable = trainable_names(plan);
  std::vector<std::string> result;
  for_each_module(module, "", [&](const std::string& path, const torch::nn::Module& part) {
    if (part.is_training() && all_frozen(trainable, path, part)) result.push_back(path);
  });
  return result;
}

std::vector<std::string> frozen_with_gradient(const FreezePlan& plan, const torch::nn::Module& module) {
  const std::set<std::string> trainable = trainable_names(plan);
  std::vector<std::string> result;
  for (const auto& item : module.named_parameters()) {
    if (!trainable.contains(item.key()) && item.value().grad().defined()) result.push_back(item.key());
  }
  return result;
}

}  // namespace thaw
