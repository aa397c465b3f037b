/// Taking whole blocks out of a model: which removals are valid, and what is left.
///
/// Stacks of one BlockStack::joined lose blocks together, in units: with u the least number of blocks among them, unit
/// i is block i of that stack and, of a deeper one with q · u blocks, its blocks i · q … i · q + q - 1.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "thaw/policy/layout.h"
#include "thaw/policy/policy.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {

/// Stacks that lose blocks together with `stack`, itself included, in the layout's order.
/// @throws UsageError with the nearest names when there is no such stack
[[nodiscard]] std::vector<BlockStack> joined_stacks(const ModelLayout& layout, const std::string& stack);

/// Number of units of `stack` and those it is joined with. @throws UsageError as joined_stacks
[[nodiscard]] std::int64_t removable_units(const ModelLayout& layout, const std::string& stack);

/// The blocks of all joined stacks that make up these units. Units are sorted and taken once each.
/// @throws UsageError for a number out of range, or as joined_stacks
[[nodiscard]] BlockLists blocks_of_units(const ModelLayout& layout, const std::string& stack,
                                         std::span<const std::int64_t> units);

/// Whether every block left over keeps its kind: block `kept[i]`, which becomes block i, has kept[i] ≡ i (mod period).
[[nodiscard]] bool keeps_period(std::span<const std::int64_t> kept, std::int64_t period);

/// Numbers 0 … count-1 that are not in `removed`.
[[nodiscard]] std::vector<std::int64_t> left_over(std::int64_t count, std::span<const std::int64_t> removed);

/// @throws UsageError when a stack is not there (nearest names), a number is out of range or not ascending, no block
/// would be left, a joined stack loses other units, or a block would change its kind
void check_removal(const ModelLayout& layout, const BlockLists& removed);

/// The parameters of `module` that stay, under the names they have in the smaller model: (…, prefix.3.x, …) becomes
/// (…, prefix.1.x, …) without blocks 1 and 2. In the layout's order; values are copied.
/// @throws UsageError as check_removal, or when the memory of a weight was given up
[[nodiscard]] std::vector<NamedTensor> remaining_weights(const ModelLayout& layout, const torch::nn::Module& module,
                                                         const BlockLists& removed);

}  // namespace thaw
