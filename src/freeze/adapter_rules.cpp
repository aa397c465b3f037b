#include "thaw/freeze/adapter_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "split_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"
#include "thaw/policy/adapters.h"

namespace thaw {
namespace {

constexpr const char* kWhere = "adapter rule";

[[noreturn]] void refuse_setting(std::string_view setting, std::string_view value, const std::string& expected) {
  throw UsageError(Problem{
      .where = fmt::format("{}: {}", kWhere, setting), .expected = expected, .found = fmt::format("'{}'", value)});
}

template <class Number>
Number number(std::string_view setting, std::string_view value, const std::string& expected) {
  Number result{};
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
  if (error != std::errc() || end != value.data() + value.size() || !(result > 0))
    refuse_setting(setting, value, expected);
  return result;
}

AdapterType parse_type(std::string_view value) {
  static const std::map<std::string_view, AdapterType> kTypes{
      {"lora", AdapterType::lora}, {"rslora", AdapterType::rslora}, {"dora", AdapterType::dora}};
  const auto found = kTypes.find(value);
  if (found == kTypes.end()) refuse_setting("type", value, "lora, rslora or dora");
  return found->second;
}

std::vector<std::string> parse_targets(std::string_view value) {
  std::vector<std::string> targets;
  for (const std::string_view part : split(value, '+')) {
    if (part.empty()) refuse_setting("targets", value, "names of layers joined by +, as in q_proj+v_proj");
    targets.emplace_back(part);
  }
  return targets;
}

/// Takes `part` as a setting of the rule. Returns whether it is one.
bool take_setting(AdapterRule& rule, std::string_view part) {
  const std::size_t sign = part.find('=');
  if (sign == std::string_view::npos) return false;
  const std::string_view name = trimmed(part.substr(0, sign));
  const std::string_view value = trimmed(part.substr(sign + 1));
  if (name == "rank") {
    rule.rank = number<std::int64_t>(name, value, "a whole number of at least 1");
  } else if (name == "alpha") {
    rule.alpha = number<double>(name, value, "a positive number");
  } else if (name == "targets") {
    rule.targets = parse_targets(value);
  } else if (name == "type") {
    rule.type = parse_type(value);
  } else {
    return false;
  }
  return true;
}

AdapterRule parse_rule(std::string_view text) {
  AdapterRule rule;
  std::vector<std::string_view> where;
  for (const std::string_view part : split(text, ',')) {
    if (!part.empty() && !take_setting(rule, part)) where.push_back(part);
  }
  if (where.empty()) {
    throw UsageError(Problem{.where = fmt::format("{} '{}'", kWhere, text),
                             .expected = "blocks or layers to adapt, as in 'language=all,rank=16' or "
                                         "'train:*action_out_proj*,rank=8'",
                             .found = "none"});
  }
  // Commas inside [0,2] or /regex/ are whole again.
  rule.where = LayerFreezePolicy::parse(fmt::format("{}", fmt::join(where, ",")));
  return rule;
}

/// Whether the layer's full name ends with the target's parts.
bool is_called(const std::string& linear, const std::string& target) {
  return linear == target || linear.ends_with("." + target);
}

/// Last parts of the names, one and two long, for suggestions.
std::vector<std::string> last_parts(const std::vector<std::string>& linears) {
  std::set<std::string> parts;
  for (const std::string& linear : linears) {
    const std::size_t last = linear.rfind('.');
    if (last == std::string::npos) {
      parts.insert(linear);
      continue;
    }
    parts.insert(linear.substr(last + 1));
    const std::size_t before = linear.rfind('.', last - 1);
    parts.insert(linear.substr(before == std::string::npos ? 0 : before + 1));
  }
  return {parts.begin(), parts.end()};
}

/// The rules on a model of which nothing trains by default.
LayerFreezePolicy on_frozen(const LayerFreezePolicy& policy) {
  std::vector<std::string> rules = policy.rules();
  rules.insert(rules.begin(), "freeze:*");
  return LayerFreezePolicy::parse(fmt::format("{}", fmt::join(rules, ",")));
}

/// Linear layers that `where` names.
std::vector<std::string> named_linears(const ModelLayout& layout, const LayerFreezePolicy& where) {
  const FreezePlan plan = on_frozen(where).resolve(layout);
  std::vector<std::string> named;
  for (const std::string& linear : adaptable_linears(layout)) {
    if (plan.trains(linear + ".weight")) named.push_back(linear);
  }
  return named;
}

std::vector<std::string> called(const std::vector<std::string>& linears, const std::string& target) {
  std::vector<std::string> found;
  std::copy_if(linears.begin(), linears.end(), std::back_inserter(found),
               [&target](const std::string& linear) { return is_called(linear, target); });
  if (!found.empty()) return found;
  throw UsageError(Problem{.where = fmt::format("{}: targets", kWhere),
                           .expected = fmt::format("the name of a linear layer among the {} named", linears.size()),
                           .found = fmt::format("'{}'", target),
                           .fix = suggest(target, last_parts(linears))});
}

std::vector<std::string> chosen_linears(const ModelLayout& layout, const AdapterRule& rule) {
  const std::vector<std::string> named = named_linears(layout, rule.where);
  if (rule.targets.empty()) return named;
  std::vector<std::string> chosen;
  for (const std::string& target : rule.targets) {
    const std::vector<std::string> found = called(named, target);
    chosen.insert(chosen.end(), found.begin(), found.end());
  }
  return chosen;
}

Adapter adapter_on(const std::string& linear, const AdapterRule& rule) {
  return {.linear = linear,
          .rank = rule.rank,
          .alpha = rule.alpha > 0.0 ? rule.alpha : static_cast<double>(rule.rank),
          .rank_stabilised = rule.type == AdapterType::rslora,
          .weight_decomposed = rule.type == AdapterType::dora};
}

/// Those of `adapters` whose layer stays frozen: found on the model that has them all, since what trains may be the
/// adapters alone.
std::vector<Adapter> on_frozen_layers(const ModelLayout& layout, const std::vector<Adapter>& adapters,
                                      const LayerFreezePolicy& full_rank) {
  const FreezePlan plan = freeze_beside_adapters(full_rank).resolve(with_adapters(layout, adapters));
  std::vector<Adapter> left;
  std::copy_if(adapters.begin(), adapters.end(), std::back_inserter(left),
               [&plan](const Adapter& adapter) { return !plan.trains(adapter.linear + ".weight"); });
  return left;
}

}  // namespace

std::vector<AdapterRule> parse_adapter_rules(std::string_view text) {
  std::vector<AdapterRule> rules;
  for (const std::string_view part : split(text, ';')) rules.push_back(parse_rule(part));
  return rules;
}

LayerFreezePolicy freeze_beside_adapters(const LayerFreezePolicy& full_rank) {
  return on_frozen(full_rank).train("@adapters");
}

std::vector<Adapter> choose_adapters(const ModelLayout& layout, const std::vector<AdapterRule>& rules,
                                     const LayerFreezePolicy& full_rank) {
  std::map<std::string, Adapter> by_linear;
  for (const AdapterRule& rule : rules) {
    for (const std::string& linear : chosen_linears(layout, rule)) by_linear[linear] = adapter_on(linear, rule);
  }
  std::vector<Adapter> adapters;
  for (const std::string& linear : adaptable_linears(layout)) {
    if (const auto found = by_linear.find(linear); found != by_linear.end()) adapters.push_back(found->second);
  }
  adapters = on_frozen_layers(layout, adapters, full_rank);
  if (!adapters.empty()) return adapters;
  throw UsageError(Problem{.where = kWhere,
                           .expected = "at least one linear layer that stays frozen",
                           .found = "none: all that is named trains itself",
                           .fix = "Name other blocks, or train fewer at full rank."});
}

}  // namespace thaw
