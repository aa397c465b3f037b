#include "thaw/freeze/layer_freeze_policy.h"

#include <fmt/format.h>
#include <torch/nn/module.h>

#include <algorithm>

#include "resolve_impl.h"
#include "rule_impl.h"
#include "thaw/core/error.h"
#include "thaw/freeze/block_stacks.h"
#include "thaw/policy/policy.h"
#include "tied_impl.h"

namespace thaw {
namespace {

/// The text of a rule that was built by a call: it must read back as exactly that rule.
std::string checked_text(Rule rule) {
  std::sort(rule.indices.begin(), rule.indices.end());
  rule.indices.erase(std::unique(rule.indices.begin(), rule.indices.end()), rule.indices.end());
  std::string text = rule.text();
  const std::vector<Rule> read = parse_rules(text);
  if (read.size() != 1 || read.front().text() != text || read.front().kind != rule.kind) {
    throw UsageError(
        Problem{.where = fmt::format("freeze rule '{}'", text),
                .expected = "one rule that can be written as text",
                .found = fmt::format("{} when read again", read.size() == 1 ? "another" : "several or none"),
                .fix = std::string(rule_grammar())});
  }
  return text;
}

std::vector<Rule> rules_of(const std::vector<std::string>& texts) {
  std::vector<Rule> rules;
  for (const std::string& text : texts) rules.push_back(parse_rules(text).at(0));
  return rules;
}

}  // namespace

LayerFreezePolicy& LayerFreezePolicy::last(std::string stack, std::int64_t blocks) {
  rules_.push_back(checked_text({.kind = RuleKind::last, .target = std::move(stack), .count = blocks}));
  return *this;
}

LayerFreezePolicy& LayerFreezePolicy::first(std::string stack, std::int64_t blocks) {
  rules_.push_back(checked_text({.kind = RuleKind::first, .target = std::move(stack), .count = blocks}));
  return *this;
}

LayerFreezePolicy& LayerFreezePolicy::all(std::string stack) {
  rules_.push_back(checked_text({.kind = RuleKind::all, .target = std::move(stack)}));
  return *this;
}

LayerFreezePolicy& LayerFreezePolicy::none(std::string stack) {
  rules_.push_back(checked_text({.kind = RuleKind::none, .target = std::move(stack)}));
  return *this;
}

LayerFreezePolicy& LayerFreezePolicy::blocks(std::string stack, std::vector<std::int64_t> indices) {
  Rule rule{.kind = RuleKind::blocks, .target = std::move(stack)};
  rule.indices = std::move(indices);
  rules_.push_back(checked_text(std::move(rule)));
  return *this;
}

LayerFreezePolicy& LayerFreezePolicy::train(std::string pattern) {
  rules_.push_back(checked_text({.kind = RuleKind::train, .target = std::move(pattern)}));
  return *this;
}

LayerFreezePolicy& LayerFreezePolicy::freeze(std::string pattern) {
  rules_.push_back(checked_text({.kind = RuleKind::freeze, .target = std::move(pattern)}));
  return *this;
}

LayerFreezePolicy LayerFreezePolicy::parse(std::string_view rules) {
  LayerFreezePolicy policy;
  for (const Rule& rule : parse_rules(rules)) policy.rules_.push_back(rule.text());
  return policy;
}

FreezePlan LayerFreezePolicy::resolve(const ModelLayout& layout) const {
  return resolve_rules(rules_of(rules_), layout, {});
}

FreezePlan LayerFreezePolicy::resolve(const Policy& policy) const {
  return resolve_rules(rules_of(rules_), policy.layout(), tied_names(*policy.module()));
}

FreezePlan LayerFreezePolicy::resolve(const torch::nn::Module& module) const {
  return resolve_rules(rules_of(rules_), layout_of(module), tied_names(module));
}

std::vector<std::string> LayerFreezePolicy::rules() const { return rules_; }

}  // namespace thaw
