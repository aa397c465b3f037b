#include "thaw/freeze/prefix_cut.h"

#include <algorithm>

#include "thaw/core/error.h"
#include "thaw/policy/policy.h"

namespace thaw {
namespace {

PrefixCut cut_at(const ModelLayout& layout, std::size_t stage, CacheCut kind) {
  return {.kind = kind, .stage = stage, .keys = live_keys(layout.line, stage, layout.image_inputs)};
}

}  // namespace

std::vector<PrefixCut> possible_cuts(const ModelLayout& layout, const FreezePlan& plan) {
  std::vector<PrefixCut> cuts{PrefixCut{}};
  for (std::size_t stage = 1; stage <= std::min(plan.boundary, layout.line.size()); ++stage) {
    const std::string& name = layout.line[stage - 1].cut;
    if (!name.empty()) cuts.push_back(cut_at(layout, stage, parse_cache_cut(name)));
  }
  return cuts;
}

std::vector<PrefixCut> deepest_cuts(const ModelLayout& layout, const FreezePlan& plan) {
  std::vector<PrefixCut> deepest;
  for (PrefixCut& cut : possible_cuts(layout, plan)) {
    std::erase_if(deepest, [&cut](const PrefixCut& earlier) { return earlier.kind == cut.kind; });
    deepest.push_back(std::move(cut));
  }
  return deepest;
}

PrefixCut deepest_cut(const ModelLayout& layout, const FreezePlan& plan, CacheCut kind) {
  if (kind == CacheCut::none) return {};
  if (kind == CacheCut::automatic) {
    throw UsageError(Problem{.where = "deepest_cut",
                             .expected = "one kind of cut",
                             .found = "automatic",
                             .fix = "choose_cut (freeze/forecast.h) chooses one."});
  }
  return cut_at(layout, find_cut(layout, plan.boundary, kind), kind);
}

}  // namespace thaw
