#include "thaw/policy/layout.h"

#include <cmath>
#include <set>

#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

template <class Item>
const Item& find_by_name(const std::vector<Item>& items, const std::string& name, const char* kind) {
  for (const Item& item : items) {
    if (item.name == name) return item;
  }
  std::vector<std::string> names;
  names.reserve(items.size());
  for (const Item& item : items) names.push_back(item.name);
  throw UsageError(
      Problem{.where = name, .expected = std::string("a ") + kind + " of the model", .fix = suggest(name, names)});
}

}  // namespace

std::int64_t ParameterInfo::numel() const {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

double KeyInfo::bytes() const { return static_cast<double>(elements) * static_cast<double>(c10::elementSize(dtype)); }

double DrawBytes::at(std::int64_t draws) const {
  const auto k = static_cast<double>(draws);
  return fixed + per_draw * k + per_pair * k * k;
}

double Adapter::scale() const {
  const auto size = static_cast<double>(rank);
  return alpha / (rank_stabilised ? std::sqrt(size) : size);
}

const ParameterInfo& ModelLayout::parameter(const std::string& name) const {
  return find_by_name(parameters, name, "parameter");
}

const BlockStack& ModelLayout::stack(const std::string& name) const {
  return find_by_name(stacks, name, "block stack");
}

std::vector<std::string> live_keys(std::span<const StageInfo> line, std::size_t cut,
                                   std::span<const std::string> inputs) {
  if (cut > line.size()) {
    throw UsageError(Problem{.where = "live_keys",
                             .expected = "a cut at or before stage " + std::to_string(line.size()),
                             .found = std::to_string(cut)});
  }
  std::set<std::string> made(inputs.begin(), inputs.end());
  for (const StageInfo& stage : line.first(cut)) made.insert(stage.writes.begin(), stage.writes.end());
  std::set<std::string> live;
  std::set<std::string> rewritten;  // behind the cut, before anybody reads it
  for (const StageInfo& stage : line.subspan(cut)) {
    for (const std::string& key : stage.reads) {
      if (made.contains(key) && !rewritten.contains(key)) live.insert(key);
    }
    rewritten.insert(stage.writes.begin(), stage.writes.end());
  }
  return {live.begin(), live.end()};
}

}  // namespace thaw
