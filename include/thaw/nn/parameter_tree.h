/// Modules made from a table of names: the tensor table of a model is the one place where its parameters are listed.
#pragma once

#include <torch/ordered_dict.h>

#include <memory>
#include <span>
#include <string>

#include "thaw/tensor/safetensors.h"

namespace torch::nn {
class Module;
}

namespace thaw::nn {

/// Full name -> parameter. The tensors share their storage with the module's, whatever dtype or device it moves to
/// later.
using ParameterMap = torch::OrderedDict<std::string, at::Tensor>;

/// A module whose named_parameters() are `parameters`: "a.b.weight" becomes parameter "weight" of child "b" of child
/// "a". Children are registered in the order of their first parameter. Nothing is copied or initialised.
/// @throws UsageError for an empty, duplicate or ill-formed name, or a name that is both a parameter and a module
[[nodiscard]] std::shared_ptr<torch::nn::Module> make_parameter_tree(std::span<const NamedTensor> parameters);

/// @throws UsageError with the nearest names
[[nodiscard]] const at::Tensor& find_parameter(const ParameterMap& parameters, const std::string& name);

}  // namespace thaw::nn
