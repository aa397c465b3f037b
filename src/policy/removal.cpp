#include "thaw/policy/removal.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>

#include "thaw/core/error.h"

namespace thaw {
namespace {

using Blocks = std::vector<std::int64_t>;

const Blocks& removed_of(const BlockLists& removed, const std::string& stack) {
  static const Blocks kNone;
  const auto found = removed.find(stack);
  return found == removed.end() ? kNone : found->second;
}

void check_numbers(const BlockStack& stack, const Blocks& removed) {
  for (std::size_t i = 0; i < removed.size(); ++i) {
    if (removed[i] < 0 || removed[i] >= stack.blocks) {
      throw UsageError(Problem{.where = "blocks of '" + stack.name + "'",
                               .expected = fmt::format("numbers in 0..{}", stack.blocks - 1),
                               .found = std::to_string(removed[i])});
    }
    if (i > 0 && removed[i] <= removed[i - 1]) {
      throw UsageError(Problem{.where = "blocks of '" + stack.name + "'",
                               .expected = "ascending numbers, each once",
                               .found = fmt::format("{}", fmt::join(removed, ","))});
    }
  }
  if (static_cast<std::int64_t>(removed.size()) < stack.blocks) return;
  throw UsageError(Problem{.where = "stack '" + stack.name + "'",
                           .expected = "at least one block left",
                           .found = fmt::format("all {} removed", stack.blocks)});
}

void check_period(const BlockStack& stack, const Blocks& removed) {
  const Blocks kept = left_over(stack.blocks, removed);
  if (keeps_period(kept, stack.period)) return;
  throw UsageError(
      Problem{.where = "stack '" + stack.name + "'",
              .expected = fmt::format("blocks whose removal keeps every other one's place in the period of {}: runs "
                                      "between blocks that stay need a length that is a multiple of it",
                                      stack.period),
              .found = fmt::format("{} removed", fmt::join(removed, ","))});
}

/// Units that lose at least one block.
Blocks touched_units(const ModelLayout& layout, const BlockLists& removed, const std::vector<BlockStack>& joined) {
  const std::int64_t units = removable_units(layout, joined.front().name);
  Blocks touched;
  for (const BlockStack& stack : joined) {
    const std::int64_t each = stack.blocks / units;
    for (const std::int64_t block : removed_of(removed, stack.name)) touched.push_back(block / each);
  }
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  return touched;
}

std::string listed(const BlockLists& lists, const std::vector<BlockStack>& stacks) {
  std::string text;
  for (const BlockStack& stack : stacks) {
    text +=
        fmt::format("{}{}: {}", text.empty() ? "" : "; ", stack.name, fmt::join(removed_of(lists, stack.name), ","));
  }
  return text;
}

void check_joined(const ModelLayout& layout, const BlockLists& removed, const std::string& stack) {
  const std::vector<BlockStack> joined = joined_stacks(layout, stack);
  const BlockLists whole = blocks_of_units(layout, stack, touched_units(layout, removed, joined));
  const bool equal = std::all_of(joined.begin(), joined.end(), [&](const BlockStack& one) {
    return removed_of(removed, one.name) == removed_of(whole, one.name);
  });
  if (equal) return;
  throw UsageError(Problem{.where = "stacks that are attended to block by block",
                           .expected = "the same places removed from each (" + listed(whole, joined) + ")",
                           .found = listed(removed, joined)});
}

/// prefix.7.rest -> prefix.5.rest
std::string renumbered(const std::string& name, const BlockStack& stack, std::int64_t from, std::int64_t to) {
  const std::string head = stack.prefix + "." + std::to_string(from) + ".";
  if (!name.starts_with(head)) {
    throw MismatchError(Problem{.where = name, .expected = "a name that begins with " + head});
  }
  return stack.prefix + "." + std::to_string(to) + "." + name.substr(head.size());
}

at::Tensor copied(const std::string& name, const at::Tensor& parameter) {
  const bool given_up = parameter.numel() > 1 && parameter.storage().nbytes() < parameter.nbytes();
  if (given_up) {
    throw UsageError(Problem{.where = name,
                             .expected = "a weight in memory",
                             .found = "one that training gave up",
                             .fix = "Load the policy anew to prune it."});
  }
  return parameter.detach().clone();
}

}  // namespace

std::vector<BlockStack> joined_stacks(const ModelLayout& layout, const std::string& stack) {
  const BlockStack& wanted = layout.stack(stack);
  if (wanted.joined.empty()) return {wanted};
  std::vector<BlockStack> joined;
  std::copy_if(layout.stacks.begin(), layout.stacks.end(), std::back_inserter(joined),
               [&wanted](const BlockStack& one) { return one.joined == wanted.joined; });
  return joined;
}

std::int64_t removable_units(const ModelLayout& layout, const std::string& stack) {
  std::int64_t units = layout.stack(stack).blocks;
  for (const BlockStack& one : joined_stacks(layout, stack)) units = std::min(units, one.blocks);
  return units;
}

BlockLists blocks_of_units(const ModelLayout& layout, const std::string& stack, std::span<const std::int64_t> units) {
  const std::int64_t count = removable_units(layout, stack);
  Blocks sorted(units.begin(), units.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  for (const std::int64_t unit : sorted) {
    if (unit >= 0 && unit < count) continue;
    throw UsageError(Problem{.where = "blocks of '" + stack + "'",
                             .expected = fmt::format("numbers in 0..{}", count - 1),
                             .found = std::to_string(unit)});
  }
  BlockLists blocks;
  for (const BlockStack& one : joined_stacks(layout, stack)) {
    const std::int64_t each = one.blocks / count;
    Blocks& list = blocks[one.name];
    for (const std::int64_t unit : sorted) {
      for (std::int64_t i = 0; i < each; ++i) list.push_back(unit * each + i);
    }
  }
  return blocks;
}

bool keeps_period(std::span<const std::int64_t> kept, std::int64_t period) {
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if ((kept[i] - static_cast<std::int64_t>(i)) % period != 0) return false;
  }
  return true;
}

std::vector<std::int64_t> left_over(std::int64_t count, std::span<const std::int64_t> removed) {
  Blocks kept;
  for (std::int64_t block = 0; block < count; ++block) {
    if (std::find(removed.begin(), removed.end(), block) == removed.end()) kept.push_back(block);
  }
  return kept;
}

void check_removal(const ModelLayout& layout, const BlockLists& removed) {
  for (const auto& [name, blocks] : removed) {
    const BlockStack& stack = layout.stack(name);
    check_numbers(stack, blocks);
    check_joined(layout, removed, name);
    check_period(stack, blocks);
  }
}

std::vector<NamedTensor> remaining_weights(const ModelLayout& layout, const torch::nn::Module& module,
                                           const BlockLists& removed) {
  check_removal(layout, removed);
  const auto parameters = module.named_parameters();
  std::vector<NamedTensor> weights;
  for (const ParameterInfo& info : layout.parameters) {
    std::string name = info.name;
    if (!info.stack.empty()) {
      const BlockStack& stack = layout.stack(info.stack);
      const Blocks kept = left_over(stack.blocks, removed_of(removed, info.stack));
      const auto place = std::find(kept.begin(), kept.end(), info.block);
      if (place == kept.end()) continue;
      name = renumbered(name, stack, info.block, place - kept.begin());
    }
    weights.push_back({.name = std::move(name), .tensor = copied(info.name, parameters[info.name])});
  }
  return weights;
}

}  // namespace thaw
