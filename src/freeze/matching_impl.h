/// What the names in a rule stand for.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "rule_impl.h"
#include "thaw/policy/layout.h"

namespace thaw {

/// The stacks that a stack rule decides. @throws UsageError for an unknown or ambiguous name
[[nodiscard]] std::vector<const BlockStack*> matching_stacks(const Rule& rule, const ModelLayout& layout);

/// Indices of the parameters that a pattern rule decides. @throws UsageError when there is none, with the nearest names
[[nodiscard]] std::vector<std::size_t> matching_parameters(const Rule& rule, const ModelLayout& layout);

}  // namespace thaw
