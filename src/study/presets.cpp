// Lists of removed blocks as they were published.
#include <fmt/format.h>

#include <algorithm>

#include "thaw/core/error.h"
#include "thaw/core/names.h"
#include "thaw/study/prune.h"

namespace thaw {
namespace {

constexpr const char* kPaper = "arXiv 2606.20246, table 5";
constexpr const char* kCode = "alternative lists in the published code of arXiv 2606.20246";

/// GR00T-N1.5's stacks as the paper names them.
const std::map<std::string, std::int64_t>& groot_blocks() {
  static const std::map<std::string, std::int64_t> kBlocks{{"language", 12}, {"vl_self_attention", 4}, {"dit", 16}};
  return kBlocks;
}

std::vector<PruningPreset> all_presets() {
  return {
      {.name = "clp-smolvla",
       .policy_type = "smolvla",
       .source = kPaper,
       .blocks = {{"language", 16}, {"expert", 16}},
       .removed = {{"language", {1, 2, 5, 6, 14, 15}}, {"expert", {1, 2, 5, 6, 14, 15}}}},
      {.name = "clp-pi0",
       .policy_type = "pi0",
       .source = kPaper,
       .blocks = {{"language", 18}, {"expert", 18}},
       .removed = {{"language", {1, 2, 4, 6, 8, 9}}, {"expert", {1, 2, 4, 6, 8, 9}}}},
      {.name = "clp-groot-n1.5",
       .policy_type = "groot",
       .source = kPaper,
       .blocks = groot_blocks(),
       .removed = {{"language", {3, 4, 5, 6, 7, 8, 9}},
                   {"vl_self_attention", {2}},
                   {"dit", {1, 2, 4, 5, 6, 7, 10, 11}}}},
      {.name = "cosine-groot-n1.5",
       .policy_type = "groot",
       .source = kCode,
       .blocks = groot_blocks(),
       .removed = {{"language", {2, 3, 4, 5, 6, 7, 8}}, {"vl_self_attention", {2}}, {"dit", {2, 3, 4, 5, 6, 7, 8, 9}}}},
      {.name = "random-groot-n1.5",
       .policy_type = "groot",
       .source = kCode,
       .blocks = groot_blocks(),
       .removed = {{"language", {0, 2, 4, 5, 6, 9, 11}},
                   {"vl_self_attention", {0}},
                   {"dit", {0, 1, 4, 5, 8, 9, 14, 15}}}},
      {.name = "keep-first-groot-n1.5",
       .policy_type = "groot",
       .source = kCode,
       .blocks = groot_blocks(),
       .removed = {{"language", {5, 6, 7, 8, 9, 10, 11}},
                   {"vl_self_attention", {3}},
                   {"dit", {8, 9, 10, 11, 12, 13, 14, 15}}}},
  };
}

const PruningPreset& find_preset(const std::string& name) {
  std::vector<std::string> names;
  for (const PruningPreset& preset : pruning_presets()) {
    if (preset.name == name) return preset;
    names.push_back(preset.name);
  }
  throw UsageError(
      Problem{.where = "preset '" + name + "'", .expected = "a published list", .fix = suggest(name, names)});
}

}  // namespace

const std::vector<PruningPreset>& pruning_presets() {
  static const std::vector<PruningPreset> kPresets = all_presets();
  return kPresets;
}

BlockLists preset_removal(const std::string& name, const ModelLayout& layout) {
  const PruningPreset& preset = find_preset(name);
  if (layout.type != preset.policy_type) {
    throw MismatchError(Problem{.where = "preset '" + name + "'",
                                .expected = "a policy of type '" + preset.policy_type + "'",
                                .found = "'" + layout.type + "'"});
  }
  for (const auto& [stack, blocks] : preset.blocks) {
    if (layout.stack(stack).blocks == blocks) continue;
    throw MismatchError(Problem{.where = "preset '" + name + "'",
                                .expected = fmt::format("{} blocks in stack '{}'", blocks, stack),
                                .found = std::to_string(layout.stack(stack).blocks),
                                .fix = "Give the blocks by hand, or let a method choose them."});
  }
  return preset.removed;
}

}  // namespace thaw
