/// The tensors a run trains, in the plan's order: the one list that optimizer, clipping, EMA and checkpoints share.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "thaw/freeze/plan.h"

namespace torch::nn {
class Module;
}

namespace thaw {

struct TrainableParameter {
  std::string name;
  at::Tensor tensor;
  std::int64_t block = -1;        ///< index in its stack; -1: in none
  std::int64_t stack_blocks = 0;  ///< blocks of that stack
};

/// Every trainable tensor of the plan once (a tensor registered under two names counts under the first).
[[nodiscard]] std::vector<TrainableParameter> trainable_parameters(const FreezePlan& plan,
                                                                   const torch::nn::Module& module);

/// Buffers that training changes (running statistics): those of modules that own a trainable parameter. They travel
/// with the trained tensors.
[[nodiscard]] std::vector<TrainableParameter> trained_buffers(const FreezePlan& plan, const torch::nn::Module& module);

/// Modules without a trainable parameter that are not in eval mode. Empty: pinned.
[[nodiscard]] std::vector<std::string> modules_not_in_eval(const FreezePlan& plan, const torch::nn::Module& module);

/// Parameters the plan does not train that hold a gradient. Empty: none.
[[nodiscard]] std::vector<std::string> frozen_with_gradient(const FreezePlan& plan, const torch::nn::Module& module);

}  // namespace thaw
