#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "backward_causes_impl.h"
#include "learnable_impl.h"
#include "line_flow_impl.h"
#include "matching_impl.h"
#include "resolve_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr const char* kDefault = "default";
constexpr const char* kLine = "line";

struct Decision {
  bool train = false;
  std::string by = kDefault;
};

/// Applies rules one after the other to a decision for each parameter.
class Decider {
 public:
  Decider(const ModelLayout& layout, const Learnable& learnable) : layout_(layout), learnable_(learnable) {
    for (const ParameterInfo& parameter : layout.parameters) {
      decisions_.push_back({.train = parameter.trainable_by_default});
    }
  }

  void apply(const Rule& rule) {
    if (rule.is_pattern()) {
      apply_pattern(rule);
    } else {
      apply_stacks(rule);
    }
  }

  /// Two names of one tensor take one decision.
  void unify_ties() {
    std::vector<std::size_t> decider(decisions_.size());
    for (std::size_t i = 0; i < decider.size(); ++i) decider[i] = i;
    for (std::size_t i = 0; i < decider.size(); ++i) {
      std::size_t& chosen = decider[learnable_.first_name(i)];
      const bool chosen_by_rule = decisions_[chosen].by != kDefault;
      const bool by_rule = decisions_[i].by != kDefault;
      if (chosen_by_rule == by_rule && decisions_[chosen].train != decisions_[i].train) throw_conflict(chosen, i);
      if (by_rule && !chosen_by_rule) chosen = i;
    }
    for (std::size_t i = 0; i < decider.size(); ++i) decisions_[i] = decisions_[decider[learnable_.first_name(i)]];
  }

  [[nodiscard]] const std::vector<Decision>& decisions() const { return decisions_; }

 private:
  [[noreturn]] static void fail(const Rule& rule, const std::string& expected, const std::string& found,
                                const std::string& fix) {
    throw UsageError(Problem{
        .where = fmt::format("freeze rule '{}'", rule.text()), .expected = expected, .found = found, .fix = fix});
  }

  [[noreturn]] void throw_conflict(std::size_t a, std::size_t b) const {
    const auto side = [this](std::size_t i) {
      return fmt::format("'{}' {} by {}", layout_.parameters[i].name, decisions_[i].train ? "trained" : "frozen",
                         decisions_[i].by == kDefault ? kDefault : "'" + decisions_[i].by + "'");
    };
    throw UsageError(Problem{.where = "freeze rules",
                             .expected = "one decision for two names of one tensor",
                             .found = fmt::format("{} and {}", side(a), side(b)),
                             .fix = "Train or freeze both."});
  }

  void decide(std::size_t parameter, bool train, const std::string& rule) { decisions_[parameter] = {train, rule}; }

  void apply_pattern(const Rule& rule) {
    const std::vector<std::size_t> matched = matching_parameters(rule, layout_);
    const bool train = rule.kind == RuleKind::train;
    const auto can_learn = [this](std::size_t i) { return learnable_.can_learn(i); };
    if (train && std::none_of(matched.begin(), matched.end(), can_learn)) {
      fail(rule, "a parameter that can learn",
           fmt::format("{} that can never get a gradient: {}", matched.size(), learnable_.why_not(matched.front())),
           "Drop the rule.");
    }
    const std::string text = rule.text();
    for (const std::size_t i : matched) decide(i, train, text);
  }

  void apply_stacks(const Rule& rule) {
    std::vector<const BlockStack*> stacks = matching_stacks(rule, layout_);
    if (rule.target == "*" && trains_blocks(rule)) {
      stacks.erase(std::remove_if(stacks.begin(), stacks.end(),
                                  [this](const BlockStack* stack) { return learnable_.blocks(stack->name).empty(); }),
                   stacks.end());
      if (stacks.empty()) fail(rule, "a stack that can learn", "none that ever gets a gradient", "Drop the rule.");
    }
    const std::string text = rule.text();
    for (const BlockStack* stack : stacks) {
      const std::set<std::int64_t> chosen = chosen_blocks(rule, *stack);
      for (std::size_t i = 0; i < layout_.parameters.size(); ++i) {
        const ParameterInfo& parameter = layout_.parameters[i];
        if (parameter.stack == stack->name) decide(i, chosen.contains(parameter.block), text);
      }
    }
  }

  static bool trains_blocks(const Rule& rule) {
    const bool counted = rule.kind == RuleKind::last || rule.kind == RuleKind::first;
    return counted ? rule.count > 0 : rule.kind != RuleKind::none;
  }

  std::set<std::int64_t> chosen_blocks(const Rule& rule, const BlockStack& stack) const {
    if (!trains_blocks(rule)) return {};
    const std::vector<std::int64_t> able = learnable_.blocks(stack.name);
    if (able.empty()) fail(rule, "a stack that can learn", never_learns(stack), "Drop the rule.");
    switch (rule.kind) {
      case RuleKind::last:
        check_count(rule, stack, able.size());
        return {able.end() - rule.count, able.end()};
      case RuleKind::first:
        check_count(rule, stack, able.size());
        return {able.begin(), able.begin() + rule.count};
      case RuleKind::blocks:
        check_indices(rule, stack, able);
        return {rule.indices.begin(), rule.indices.end()};
      default:
        return {able.begin(), able.end()};
    }
  }

  std::string never_learns(const BlockStack& stack) const {
    for (std::size_t i = 0; i < layout_.parameters.size(); ++i) {
      if (layout_.parameters[i].stack != stack.name) continue;
      return fmt::format("'{}', which can never get a gradient: {}", stack.name, learnable_.why_not(i));
    }
    return fmt::format("'{}', which has no parameters", stack.name);
  }

  static void check_count(const Rule& rule, const BlockStack& stack, std::size_t able) {
    if (rule.count <= static_cast<std::int64_t>(able)) return;
    const std::string rest = static_cast<std::int64_t>(able) == stack.blocks
                                 ? std::string()
                                 : fmt::format(" (of {}, the others can never get a gradient)", stack.blocks);
    fail(rule, fmt::format("at most {}, the blocks of '{}' that can learn{}", able, stack.name, rest),
         std::to_string(rule.count), fmt::format("For all of them write {}=all.", stack.name));
  }

  void check_indices(const Rule& rule, const BlockStack& stack, const std::vector<std::int64_t>& able) const {
    for (const std::int64_t index : rule.indices) {
      if (index >= stack.blocks) {
        fail(rule, fmt::format("blocks 0 to {} of '{}'", stack.blocks - 1, stack.name), std::to_string(index), "");
      }
      if (std::binary_search(able.begin(), able.end(), index)) continue;
      fail(rule, "blocks that can learn", fmt::format("block {} of '{}'{}", index, stack.name, why_block(stack, index)),
           fmt::format("Those that can: {}.", range_text(able, "-", ", ")));
    }
  }

  std::string why_block(const BlockStack& stack, std::int64_t block) const {
    for (std::size_t i = 0; i < layout_.parameters.size(); ++i) {
      const ParameterInfo& parameter = layout_.parameters[i];
      if (parameter.stack != stack.name || parameter.block != block) continue;
      return ", which can never get a gradient: " + learnable_.why_not(i);
    }
    return ", which has no parameters";
  }

  const ModelLayout& layout_;
  const Learnable& learnable_;
  std::vector<Decision> decisions_;
};

std::vector<PlannedParameter> planned_parameters(const ModelLayout& layout, const Learnable& learnable,
                                                 const std::vector<Decision>& decisions) {
  std::vector<PlannedParameter> parameters;
  parameters.reserve(layout.parameters.size());
  for (std::size_t i = 0; i < layout.parameters.size(); ++i) {
    const ParameterInfo& info = layout.parameters[i];
    PlannedParameter planned{.name = info.name, .shape = info.shape, .dtype = info.dtype, .stack = info.stack};
    planned.block = info.block;
    planned.unread = info.unread;
    planned.decided_by = decisions[i].by;
    if (learnable.first_name(i) != i) planned.same_as = layout.parameters[learnable.first_name(i)].name;
    if (!learnable.is_live(i)) {
      planned.parameter_class = ParameterClass::dead;
      planned.decided_by = kLine;
    } else if (decisions[i].train && learnable.can_learn(i)) {
      planned.parameter_class = ParameterClass::trainable;
    }
    parameters.push_back(std::move(planned));
  }
  return parameters;
}

void check_trains_something(const FreezePlan& plan) {
  if (!plan.names(ParameterClass::trainable).empty()) return;
  const std::string rules = fmt::format("{}", fmt::join(plan.rules, ","));
  throw UsageError(Problem{.where = rules.empty() ? "the model's own default" : fmt::format("freeze rules '{}'", rules),
                           .expected = fmt::format("a plan for '{}' that trains at least one tensor", plan.model_type),
                           .found = "none",
                           .fix = "Add a rule that trains something: STACK=N, STACK=all or train:PATTERN."});
}

std::vector<StackPlan> stack_plans(const ModelLayout& layout, const Learnable& learnable, const FreezePlan& plan) {
  std::vector<StackPlan> stacks;
  for (const BlockStack& stack : layout.stacks) {
    StackPlan planned{.name = stack.name, .blocks = stack.blocks};
    std::set<std::int64_t> trainable;
    for (const PlannedParameter& parameter : plan.parameters) {
      const bool trains = parameter.parameter_class == ParameterClass::trainable;
      if (trains && parameter.stack == stack.name) trainable.insert(parameter.block);
    }
    planned.trainable_blocks.assign(trainable.begin(), trainable.end());
    const std::vector<std::int64_t> able = learnable.blocks(stack.name);
    for (std::int64_t block = 0; block < stack.blocks; ++block) {
      if (!std::binary_search(able.begin(), able.end(), block)) planned.dead_blocks.push_back(block);
    }
    stacks.push_back(std::move(planned));
  }
  return stacks;
}

using ByName = std::unordered_map<std::string, const PlannedParameter*>;

bool trains(const ByName& by_name, const std::string& name) {
  return by_name.at(name)->parameter_class == ParameterClass::trainable;
}

/// Share of a stage's weights, by bytes, that get a gradient.
double trainable_share(const StageInfo& stage, const ByName& by_name) {
  double trainable = 0;
  double all = 0;
  for (const std::string& name : stage.parameters) {
    const auto bytes = static_cast<double>(by_name.at(name)->bytes());
    all += bytes;
    if (trains(by_name, name)) trainable += bytes;
  }
  return all > 0 ? trainable / all : 0.0;
}

void plan_line(FreezePlan& plan, const ModelLayout& layout) {
  ByName by_name;
  for (const PlannedParameter& parameter : plan.parameters) by_name[parameter.name] = &parameter;
  const auto is_trainable = [&by_name](const std::string& name) { return trains(by_name, name); };
  const std::vector<StageFlow> flow = gradient_flow(layout, is_trainable);

  const auto first = std::find_if(flow.begin(), flow.end(), [](const StageFlow& stage) { return stage.walks; });
  plan.boundary = static_cast<std::size_t>(first - flow.begin());
  const auto& names = layout.line.at(plan.boundary).parameters;
  plan.boundary_parameter = *std::find_if(names.begin(), names.end(), is_trainable);
  for (std::size_t i = 0; i < flow.size(); ++i) {
    const StageInfo& info = layout.line[i];
    StagePlan stage{.name = info.name, .runs_under_grad = i >= plan.boundary, .backward_walks = flow[i].walks};
    stage.forward_flops = info.flops;
    if (stage.backward_walks) {
      const double passes = (flow[i].reads_gradient ? 1.0 : 0.0) + trainable_share(info, by_name);
      stage.backward_flops = passes * info.flops;
    }
    plan.line.push_back(std::move(stage));
  }
  plan.backward_causes = backward_causes(layout, flow, is_trainable);
}

}  // namespace

FreezePlan resolve_rules(const std::vector<Rule>& rules, const ModelLayout& layout,
                         const std::map<std::string, std::string>& tied) {
  const Learnable learnable(layout, tied);
  Decider decider(layout, learnable);
  for (const Rule& rule : rules) decider.apply(rule);
  decider.unify_ties();

  FreezePlan plan;
  plan.model_type = layout.type;
  for (const Rule& rule : rules) plan.rules.push_back(rule.text());
  plan.parameters = planned_parameters(layout, learnable, decider.decisions());
  check_trains_something(plan);
  plan.stacks = stack_plans(layout, learnable, plan);
  plan_line(plan, layout);
  return plan;
}

}  // namespace thaw
