/// Parameters of a module that are one tensor under several names.
#pragma once

#include <map>
#include <string>

namespace torch::nn {
class Module;
}

namespace thaw {

/// Each later name -> the first name of the same memory. Two parameters are tied when their bytes overlap in one
/// storage.
[[nodiscard]] std::map<std::string, std::string> tied_names(const torch::nn::Module& module);

}  // namespace thaw
