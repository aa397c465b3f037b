/// Finds the stacks of like blocks in any module and describes it as a ModelLayout.
#pragma once

#include <vector>

#include "thaw/policy/layout.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// Every ModuleList or Sequential (or numbered children) of at least two blocks with equal parameter names; the outermost
/// of nested ones. Stack name: the module path ("encoder.layers"), also usable by its last distinct part ("encoder").
[[nodiscard]] std::vector<BlockStack> find_block_stacks(const torch::nn::Module& module);

/// Parameters with their stacks, blocks and groups, requires_grad as default, and a line of one stage.
[[nodiscard]] ModelLayout layout_of(const torch::nn::Module& module);

}  // namespace thaw
