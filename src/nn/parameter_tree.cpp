#include "thaw/nn/parameter_tree.h"

#include <torch/nn/module.h>

#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw::nn {
namespace {

using torch::nn::Module;

[[noreturn]] void refuse(const std::string& name, const std::string& found) {
  throw UsageError(
      Problem{.where = name, .expected = "a parameter name such as 'layers.0.weight', once", .found = found});
}

std::shared_ptr<Module> child_of(Module& parent, const std::string& segment, const std::string& full_name) {
  if (segment.empty()) refuse(full_name, "an empty segment");
  if (parent.named_parameters(/*recurse=*/false).contains(segment)) {
    refuse(full_name, "'" + segment + "' being a parameter already");
  }
  for (const auto& child : parent.named_children()) {
    if (child.key() == segment) return child.value();
  }
  return parent.register_module(segment, std::make_shared<Module>(segment));
}

void add_parameter(const std::shared_ptr<Module>& root, const NamedTensor& parameter) {
  std::shared_ptr<Module> module = root;
  std::size_t begin = 0;
  for (std::size_t dot = parameter.name.find('.'); dot != std::string::npos; dot = parameter.name.find('.', begin)) {
    module = child_of(*module, parameter.name.substr(begin, dot - begin), parameter.name);
    begin = dot + 1;
  }
  const std::string leaf = parameter.name.substr(begin);
  if (leaf.empty()) refuse(parameter.name, "an empty segment");
  if (module->named_parameters(/*recurse=*/false).contains(leaf)) refuse(parameter.name, "the same name twice");
  for (const auto& child : module->named_children()) {
    if (child.key() == leaf) refuse(parameter.name, "'" + leaf + "' being a module already");
  }
  module->register_parameter(leaf, parameter.tensor);
}

}  // namespace

std::shared_ptr<Module> make_parameter_tree(std::span<const NamedTensor> parameters) {
  auto root = std::make_shared<Module>();
  for (const NamedTensor& parameter : parameters) add_parameter(root, parameter);
  return root;
}

const at::Tensor& find_parameter(const ParameterMap& parameters, const std::string& name) {
  if (const at::Tensor* tensor = parameters.find(name)) return *tensor;
  throw UsageError(
      Problem{.where = name, .expected = "a parameter of the model", .fix = suggest(name, parameters.keys())});
}

}  // namespace thaw::nn
