/// Rules + layout -> plan.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "rule_impl.h"
#include "thaw/freeze/plan.h"
#include "thaw/policy/layout.h"

namespace thaw {

/// `tied`: each later name of a tensor -> its first. @throws UsageError as LayerFreezePolicy::resolve
[[nodiscard]] FreezePlan resolve_rules(const std::vector<Rule>& rules, const ModelLayout& layout,
                                       const std::map<std::string, std::string>& tied);

}  // namespace thaw
