#include "thaw/freeze/apply.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_set>

#include "thaw/core/error.h"
#include "thaw/core/names.h"
#include "thaw/tensor/digest.h"

namespace thaw {
namespace {

using torch::nn::Module;
using Parameters = torch::OrderedDict<std::string, at::Tensor>;

[[noreturn]] void mismatch(const FreezePlan& plan, const std::string& expected, const std::string& found,
                           const std::string& fix) {
  throw MismatchError(Problem{
      .where = fmt::format("freeze plan of '{}'", plan.model_type), .expected = expected, .found = found, .fix = fix});
}

/// The module's parameters, which are the plan's.
Parameters checked_parameters(const FreezePlan& plan, const Module& module) {
  Parameters parameters = module.named_parameters();
  for (const PlannedParameter& planned : plan.parameters) {
    const at::Tensor* found = parameters.find(planned.name);
    if (found == nullptr) {
      mismatch(plan, fmt::format("a parameter '{}'", planned.name), "no such parameter in the module",
               suggest(planned.name, parameters.keys()));
    }
    if (found->sizes() != planned.shape) {
      mismatch(plan, fmt::format("'{}' of shape [{}]", planned.name, fmt::join(planned.shape, ", ")),
               fmt::format("[{}]", fmt::join(found->sizes(), ", ")), "");
    }
  }
  if (parameters.size() > plan.parameters.size()) {
    std::unordered_set<std::string> known;
    for (const PlannedParameter& planned : plan.parameters) known.insert(planned.name);
    for (const std::string& name : parameters.keys()) {
      if (!known.contains(name)) {
        mismatch(plan, fmt::format("{} parameters", plan.parameters.size()), fmt::format("'{}' besides them", name),
                 "Resolve the plan for this module.");
      }
    }
  }
  return parameters;
}

struct FrozenModule {
  std::string path;
  std::shared_ptr<Module> module;
};

using Names = std::unordered_set<std::string>;

Names trainable_names(const FreezePlan& plan) {
  Names names;
  for (const PlannedParameter& parameter : plan.parameters) {
    if (parameter.parameter_class == ParameterClass::trainable) names.insert(parameter.name);
  }
  return names;
}

void collect_frozen(const Names& trainable, const Module& module, const std::string& prefix,
                    std::vector<FrozenModule>& frozen) {
  for (const auto& child : module.named_children()) {
    const std::string path = prefix + child.key();
    const auto parameters = child.value()->named_parameters();
    const bool trains = std::any_of(parameters.begin(), parameters.end(), [&trainable, &path](const auto& item) {
      return trainable.contains(path + "." + item.key());
    });
    if (trains || parameters.is_empty()) {
      collect_frozen(trainable, *child.value(), path + ".", frozen);
    } else {
      frozen.push_back({path, child.value()});
    }
  }
}

/// The outermost modules that hold parameters but no trainable one. Never the root: a plan trains something.
std::vector<FrozenModule> frozen_modules(const FreezePlan& plan, const Module& module) {
  std::vector<FrozenModule> frozen;
  collect_frozen(trainable_names(plan), module, "", frozen);
  return frozen;
}

void pin(const FreezePlan& plan, const Module& module) {
  for (const FrozenModule& frozen : frozen_modules(plan, module)) frozen.module->eval();
}

std::map<std::string, at::Tensor> frozen_buffers(const FreezePlan& plan, const Module& module) {
  std::map<std::string, at::Tensor> buffers;
  for (const FrozenModule& frozen : frozen_modules(plan, module)) {
    for (const auto& item : frozen.module->named_buffers())
      buffers.emplace(frozen.path + "." + item.key(), item.value());
  }
  return buffers;
}

}  // namespace

void apply_freeze(const FreezePlan& plan, Module& module) {
  Parameters parameters = checked_parameters(plan, module);
  for (const PlannedParameter& planned : plan.parameters) {
    at::Tensor& parameter = parameters[planned.name];
    const bool trains = planned.parameter_class == ParameterClass::trainable;
    if (!trains) parameter.mutable_grad().reset();
    parameter.set_requires_grad(trains);
  }
  module.train();
  pin(plan, module);
}

void pin_eval(const FreezePlan& plan, Module& module) {
  (void)checked_parameters(plan, module);
  pin(plan, module);
}

void add_digests(FreezePlan& plan, const Module& module) {
  const Parameters parameters = checked_parameters(plan, module);
  for (PlannedParameter& planned : plan.parameters) planned.digest = tensor_digest(parameters[planned.name]);
  plan.buffers.clear();
  for (const auto& [name, buffer] : frozen_buffers(plan, module)) plan.buffers.push_back({name, tensor_digest(buffer)});
}

std::vector<std::string> moved_frozen_parameters(const FreezePlan& plan, const Module& module) {
  const Parameters parameters = checked_parameters(plan, module);
  std::vector<std::string> moved;
  for (const PlannedParameter& planned : plan.parameters) {
    if (planned.parameter_class == ParameterClass::trainable) continue;
    if (planned.digest.empty()) {
      throw UsageError(Problem{.where = fmt::format("freeze plan of '{}'", plan.model_type),
                               .expected = "digests of the frozen parameters",
                               .found = fmt::format("none of '{}'", planned.name),
                               .fix = "Take them with add_digests before training."});
    }
    if (tensor_digest(parameters[planned.name]) != planned.digest) moved.push_back(planned.name);
  }
  const std::map<std::string, at::Tensor> buffers = frozen_buffers(plan, module);
  for (const PlannedBuffer& planned : plan.buffers) {
    const auto found = buffers.find(planned.name);
    if (found == buffers.end() || tensor_digest(found->second) != planned.digest) moved.push_back(planned.name);
  }
  return moved;
}

}  // namespace thaw
