/// Makes a module obey a plan, and proves that it did.
#pragma once

#include <string>
#include <vector>

#include "thaw/freeze/plan.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// requires_grad as planned, gradients of what does not train dropped; modules that hold parameters but no trainable
/// one are put into eval mode, the others into train mode. A module without parameters (dropout) goes with the module
/// it lies in.
/// @throws MismatchError when the module's parameters are not the plan's (names or shapes)
void apply_freeze(const FreezePlan& plan, torch::nn::Module& module);

/// Pins frozen modules to eval again, after somebody called module.train(). @throws as apply_freeze
void pin_eval(const FreezePlan& plan, torch::nn::Module& module);

/// Fills the digest of every parameter, and of the buffers of frozen modules, from the module's present content. The
/// digest holds the dtype: compare with it in the dtype it was taken in. @throws as apply_freeze
void add_digests(FreezePlan& plan, const torch::nn::Module& module);

/// Names of frozen or dead parameters, and of buffers of frozen modules, whose content differs from the plan's digest.
/// @throws as apply_freeze; UsageError when the plan holds no digests
[[nodiscard]] std::vector<std::string> moved_frozen_parameters(const FreezePlan& plan, const torch::nn::Module& module);

}  // namespace thaw
