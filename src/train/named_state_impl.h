// Copying saved tensors into live ones by name, all or nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace thaw {

/// `saved` and `live` must have the same names, shapes and dtypes. The live tensors get the saved values.
/// @throws MismatchError naming `what` and the tensor; nothing is changed then
void copy_named_state(const std::map<std::string, at::Tensor>& saved, const std::map<std::string, at::Tensor>& live,
                      const std::string& what);

}  // namespace thaw
