/// Finds the stacks of like blocks in any module and describes it as a ModelLayout.
#pragma once

#include <vector>

#include "thaw/policy/layout.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// Every ModuleList or Sequential (or children numbered from 0) of at least two blocks whose parameters have equal
/// names and ranks; sizes may differ (every other block of an expert may be narrower). Of nested stacks the outermost.
/// Stack name: the module path ("encoder.layers"), "blocks" for the root; rules also take a distinct part ("encoder").
[[nodiscard]] std::vector<BlockStack> find_block_stacks(const torch::nn::Module& module);

/// Parameters with their stacks, blocks and groups, requires_grad as default, and a line of one stage that uses them
/// all. Groups go by type and parameter names: a module type or parameter "…norm…", a "bias", "…embed…",
/// "…projector"/"connector".
[[nodiscard]] ModelLayout layout_of(const torch::nn::Module& module);

}  // namespace thaw
