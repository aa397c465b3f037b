/// The cuts that a plan allows, with what a cache would keep at each.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "thaw/freeze/cut.h"
#include "thaw/freeze/plan.h"
#include "thaw/policy/layout.h"

namespace thaw {

struct PrefixCut {
  CacheCut kind = CacheCut::none;
  std::size_t stage = 0;          ///< stages before it do not run once the cache holds a sample
  std::vector<std::string> keys;  ///< what is kept (live_keys at the cut); empty for none
};

/// "none", then every cut at or before the gradient boundary that the layout names (StageInfo::cut), in order.
[[nodiscard]] std::vector<PrefixCut> possible_cuts(const ModelLayout& layout, const FreezePlan& plan);

/// "none" and the deepest possible cut of each kind, in the order of the line.
[[nodiscard]] std::vector<PrefixCut> deepest_cuts(const ModelLayout& layout, const FreezePlan& plan);

/// The deepest of `kind`. @throws UsageError as find_cut, and for automatic
[[nodiscard]] PrefixCut deepest_cut(const ModelLayout& layout, const FreezePlan& plan, CacheCut kind);

}  // namespace thaw
