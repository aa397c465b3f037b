#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "learnable_impl.h"
#include "line_flow_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

[[noreturn]] void bad_layout(const ModelLayout& layout, const std::string& expected, const std::string& found) {
  throw UsageError(Problem{.where = fmt::format("layout of '{}'", layout.type), .expected = expected, .found = found});
}

void check_stacks(const ModelLayout& layout) {
  std::map<std::string, std::int64_t> blocks;
  for (const BlockStack& stack : layout.stacks) {
    if (!blocks.emplace(stack.name, stack.blocks).second) {
      bad_layout(layout, "stacks with different names", fmt::format("'{}' twice", stack.name));
    }
  }
  for (const ParameterInfo& parameter : layout.parameters) {
    if (parameter.stack.empty()) continue;
    const auto stack = blocks.find(parameter.stack);
    if (stack == blocks.end() || parameter.block < 0 || parameter.block >= stack->second) {
      bad_layout(layout, "every parameter in a block that its stack has",
                 fmt::format("'{}' in block {} of '{}'", parameter.name, parameter.block, parameter.stack));
    }
  }
}

void check_output(const ModelLayout& layout) {
  for (const StageInfo& stage : layout.line) {
    if (std::find(stage.writes.begin(), stage.writes.end(), layout.output_key) != stage.writes.end()) return;
  }
  bad_layout(layout, fmt::format("a stage that writes the output '{}'", layout.output_key), "none");
}

}  // namespace

Learnable::Learnable(const ModelLayout& layout, const std::map<std::string, std::string>& tied) : layout_(layout) {
  check_stacks(layout);
  check_output(layout);
  index_parameters(tied);
  mark_live();
}

void Learnable::index_parameters(const std::map<std::string, std::string>& tied) {
  const auto& parameters = layout_.parameters;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!index_.emplace(parameters[i].name, i).second) {
      bad_layout(layout_, "parameters with different names", fmt::format("'{}' twice", parameters[i].name));
    }
    const auto first = tied.find(parameters[i].name);
    const auto earlier = first == tied.end() ? index_.end() : index_.find(first->second);
    first_.push_back(earlier == index_.end() ? i : earlier->second);
  }
}

void Learnable::mark_live() {
  live_.assign(layout_.parameters.size(), false);
  const std::vector<bool> live_stage = live_stages(layout_);
  for (std::size_t s = 0; s < layout_.line.size(); ++s) {
    for (const std::string& name : layout_.line[s].parameters) {
      const auto found = index_.find(name);
      if (found == index_.end()) {
        bad_layout(layout_, fmt::format("stage '{}' to use parameters of the model", layout_.line[s].name),
                   fmt::format("'{}'", name));
      }
      if (live_stage[s]) live_[first_[found->second]] = true;
    }
  }
}

bool Learnable::can_learn(std::size_t parameter) const {
  const at::ScalarType dtype = layout_.parameters[parameter].dtype;
  return is_live(parameter) && (at::isFloatingType(dtype) || at::isComplexType(dtype));
}

std::string Learnable::why_not(std::size_t parameter) const {
  const ParameterInfo& info = layout_.parameters[parameter];
  if (is_live(parameter)) return fmt::format("'{}' is {}, which has no gradient", info.name, toString(info.dtype));
  for (const StageInfo& stage : layout_.line) {
    if (std::find(stage.parameters.begin(), stage.parameters.end(), info.name) == stage.parameters.end()) continue;
    return fmt::format("'{}' is used only by stages such as '{}', whose output the loss does not depend on", info.name,
                       stage.name);
  }
  return fmt::format("no stage of the forward pass uses '{}'", info.name);
}

std::vector<std::int64_t> Learnable::blocks(const std::string& stack) const {
  std::set<std::int64_t> found;
  for (std::size_t i = 0; i < layout_.parameters.size(); ++i) {
    if (layout_.parameters[i].stack == stack && can_learn(i)) found.insert(layout_.parameters[i].block);
  }
  return {found.begin(), found.end()};
}

}  // namespace thaw
