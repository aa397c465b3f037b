// Remembers the content of everything that must not change during training.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "thaw/freeze/plan.h"

namespace torch::nn {
class Module;
}

namespace thaw {

class FrozenWitness {
 public:
  /// Parameters the plan does not train, as they are now (in the compute dtype), and buffers that training leaves
  /// alone.
  FrozenWitness(const FreezePlan& plan, const torch::nn::Module& module);
  /// Names of those that differ now.
  [[nodiscard]] std::vector<std::string> moved(const torch::nn::Module& module) const;

 private:
  std::map<std::string, std::string> digests_;
};

}  // namespace thaw
