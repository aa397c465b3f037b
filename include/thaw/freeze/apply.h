/// Makes a module obey a plan, and proves that it did.
#pragma once

#include <string>
#include <vector>

#include "thaw/freeze/plan.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// requires_grad as planned; modules that hold no trainable parameter are put into eval mode, the others into train mode.
/// @throws MismatchError when the module's parameters are not the plan's (names or shapes)
void apply_freeze(const FreezePlan& plan, torch::nn::Module& module);

/// Pins frozen modules to eval again, after somebody called module.train().
void pin_eval(const FreezePlan& plan, torch::nn::Module& module);

/// Fills the digest of every parameter from the module's present content.
void add_digests(FreezePlan& plan, const torch::nn::Module& module);

/// Names of frozen or dead parameters whose content differs from the plan's digest.
[[nodiscard]] std::vector<std::string> moved_frozen_parameters(const FreezePlan& plan, const torch::nn::Module& module);

}  // namespace thaw
