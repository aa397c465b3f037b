#include "thaw/study/sweep_grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

#include "thaw/core/error.h"
#include "thaw/core/names.h"
#include "thaw/core/sha256.h"

namespace thaw {
namespace {

constexpr std::size_t kIdDigits = 12;
constexpr std::array<std::pair<std::string_view, SweepReason>, 3> kReasons{
    {{"rate-search", SweepReason::rate_search}, {"rung", SweepReason::rung}, {"full", SweepReason::full}}};

[[noreturn]] void refuse(const std::string& field, const std::string& expected, const std::string& found) {
  throw UsageError(Problem{.where = "SweepGrid." + field, .expected = expected, .found = found});
}

template <class T>
void require_list(const std::vector<T>& values, const std::string& field, const std::string& expected,
                  const std::function<bool(T)>& is_good) {
  if (values.empty()) refuse(field, "at least one", "none");
  for (auto value = values.begin(); value != values.end(); ++value) {
    if (!is_good(*value)) refuse(field, expected, fmt::format("{}", *value));
    if (std::find(values.begin(), value, *value) != value) refuse(field, "each once", fmt::format("{} twice", *value));
  }
}

void require_freezes(const SweepGrid& grid) {
  if (grid.stacks.empty() && grid.rules.empty()) {
    throw UsageError(Problem{.where = "sweep",
                             .expected = "at least one freeze to train",
                             .found = "an empty grid",
                             .fix = "Name a stack and numbers of blocks (--stack language --blocks 0,1,2,all), or give "
                                    "rules (--rules 'language=2')."});
  }
  for (const StackBlocks& each : grid.stacks) {
    require_list<std::int64_t>(each.blocks, "stacks." + each.stack, "a number of blocks, or all",
                               [](std::int64_t blocks) { return blocks >= 0 || blocks == kAllBlocks; });
  }
}

/// Blocks of each stack that can learn, whatever is frozen.
std::map<std::string, std::int64_t> learnable_blocks(
    const std::function<FreezePlan(const LayerFreezePolicy&)>& resolve) {
  std::map<std::string, std::int64_t> most;
  for (const StackPlan& stack : resolve(LayerFreezePolicy{}.train("*")).stacks) {
    most[stack.name] = stack.blocks - static_cast<std::int64_t>(stack.dead_blocks.size());
  }
  return most;
}

/// "encoder" is meant where only "encoder.layers" has that part: as freeze rules have it.
bool names_stack(const std::string& text, const std::string& stack) {
  return stack == text || ("." + stack + ".").find("." + text + ".") != std::string::npos;
}

class Grid {
 public:
  Grid(const SweepGrid& grid, const ModelLayout& layout,
       const std::function<FreezePlan(const LayerFreezePolicy&)>& resolve)
      : grid_(grid), layout_(layout), resolve_(resolve), most_(learnable_blocks(resolve)) {}

  std::vector<SweepFreeze> freezes() {
    if (!grid_.stacks.empty()) combine({.policy = grid_.base}, 0);
    for (const std::string& rules : grid_.rules) add_rules(rules);
    return std::move(freezes_);
  }

 private:
  /// Every combination of counts of the stacks from number `next` on.
  void combine(const SweepFreeze& so_far, std::size_t next) {
    if (next == grid_.stacks.size()) {
      add(so_far);
      return;
    }
    const StackBlocks& stack = grid_.stacks[next];
    const std::int64_t most = most_of(stack.stack);
    std::set<std::int64_t> seen;
    for (const std::int64_t asked : stack.blocks) {
      const std::int64_t blocks = asked == kAllBlocks ? most : asked;
      if (blocks > most) refuse_count(stack.stack, blocks, most);
      if (!seen.insert(blocks).second) continue;  // "all" and its number
      SweepFreeze with = so_far;
      set_blocks(with.policy, stack.stack, blocks);
      with.blocks[stack.stack] = blocks;
      with.label += fmt::format("{}{}={}", with.label.empty() ? "" : ",", stack.stack, blocks);
      combine(with, next + 1);
    }
  }

  void set_blocks(LayerFreezePolicy& policy, const std::string& stack, std::int64_t blocks) const {
    for (const BlockStack& each : layout_.stacks) {
      const std::int64_t most = most_.at(each.name);
      if (stack != "*" && !names_stack(stack, each.name)) continue;
      if (most == 0 || blocks == 0) {
        policy.none(each.name);
      } else {
        policy.last(each.name, std::min(blocks, most));
      }
    }
  }

  /// @throws UsageError when no stack, or more than one, is meant by `stack`
  [[nodiscard]] std::int64_t most_of(const std::string& stack) const {
    std::vector<std::string> names;
    std::vector<std::string> meant;
    std::int64_t most = 0;
    for (const BlockStack& each : layout_.stacks) {
      names.push_back(each.name);
      if (stack != "*" && !names_stack(stack, each.name)) continue;
      meant.push_back(each.name);
      most = std::max(most, most_.at(each.name));
    }
    const bool found = stack == "*" ? !meant.empty() : meant.size() == 1;
    if (found) return most;
    throw UsageError(Problem{.where = "sweep",
                             .expected = fmt::format("a stack '{}' of blocks", stack),
                             .found = meant.empty() ? "none of that name" : "several that could be meant",
                             .fix = suggest(stack, names)});
  }

  [[noreturn]] static void refuse_count(const std::string& stack, std::int64_t blocks, std::int64_t most) {
    throw UsageError(Problem{.where = "sweep",
                             .expected = fmt::format("at most {}, the blocks of '{}' that can learn", most, stack),
                             .found = std::to_string(blocks),
                             .fix = "For all of them write all."});
  }

  void add_rules(const std::string& rules) {
    std::string text;
    for (const std::string& rule : grid_.base.rules()) text += rule + ",";
    SweepFreeze freeze{.label = rules, .policy = LayerFreezePolicy::parse(text + rules)};
    add(std::move(freeze));
  }

  void add(SweepFreeze freeze) {
    freeze.plan = resolve_(freeze.policy);
    if (digests_.insert(freeze.plan.digest()).second) freezes_.push_back(std::move(freeze));
  }

  const SweepGrid& grid_;
  const ModelLayout& layout_;
  const std::function<FreezePlan(const LayerFreezePolicy&)>& resolve_;
  std::map<std::string, std::int64_t> most_;
  std::set<std::string> digests_;
  std::vector<SweepFreeze> freezes_;
};

SweepReason parse_reason(const std::string& name, const std::string& where) {
  for (const auto& [known, reason] : kReasons) {
    if (known == name) return reason;
  }
  throw FormatError(Problem{.where = where, .expected = "\"why\": rate-search, rung or full", .found = name});
}

std::map<std::string, std::int64_t> blocks_from_json(const Json& json, const std::string& where) {
  std::map<std::string, std::int64_t> blocks;
  const Json object = json_field<Json>(json, "blocks", where);
  for (const auto& item : object.items()) blocks[item.key()] = json_field<std::int64_t>(object, item.key(), where);
  return blocks;
}

SweepPruning pruning_from_json(const Json& json, const std::string& where) {
  if (!json.contains("pruned")) return {};
  SweepPruning pruning{.count = json_field<std::int64_t>(json, "pruned", where), .removed = {}};
  const Json lists = json_field<Json>(json, "removed", where);
  for (const auto& item : lists.items()) {
    pruning.removed[item.key()] = json_field<std::vector<std::int64_t>>(lists, item.key(), where);
  }
  return pruning;
}

}  // namespace

std::string configuration_name(const std::string& freeze, const SweepPruning& pruning) {
  return pruning.count == 0 ? freeze : fmt::format("{} with {} pruned", freeze, pruning.count);
}

void add_pruning(Json& json, const SweepPruning& pruning) {
  if (pruning.count == 0) return;
  json["pruned"] = pruning.count;
  json["removed"] = pruning.removed;
}

void SweepGrid::validate() const {
  require_freezes(*this);
  require_list<double>(learning_rates, "learning_rates", "a positive number",
                       [](double rate) { return std::isfinite(rate) && rate > 0; });
  require_list<std::int64_t>(draws, "draws", "at least 1", [](std::int64_t count) { return count >= 1; });
  require_list<std::uint64_t>(seeds, "seeds", "below 2^53",
                              [](std::uint64_t seed) { return seed < std::uint64_t{1} << 53; });
}

std::vector<SweepFreeze> sweep_freezes(const SweepGrid& grid, const ModelLayout& layout,
                                       const std::function<FreezePlan(const LayerFreezePolicy&)>& resolve) {
  grid.validate();
  return Grid(grid, layout, resolve).freezes();
}

std::string_view sweep_reason_name(SweepReason reason) {
  return std::find_if(kReasons.begin(), kReasons.end(), [reason](const auto& known) { return known.second == reason; })
      ->first;
}

Json SweepPoint::to_json() const {
  Json json{{"id", id}, {"why", sweep_reason_name(reason)}, {"freeze", freeze}};
  Json& counts = json["blocks"] = Json::object();
  for (const auto& [stack, count] : blocks) counts[stack] = count;
  add_pruning(json, pruning);
  json["plan_digest"] = plan_digest;
  json["learning_rate"] = learning_rate;
  json["draws"] = draws;
  json["seed"] = seed;
  json["steps"] = steps;
  return json;
}

SweepPoint SweepPoint::from_json(const Json& json, const std::string& where) {
  return {.id = json_field<std::string>(json, "id", where),
          .reason = parse_reason(json_field<std::string>(json, "why", where), where),
          .freeze = json_field<std::string>(json, "freeze", where),
          .blocks = blocks_from_json(json, where),
          .pruning = pruning_from_json(json, where),
          .plan_digest = json_field<std::string>(json, "plan_digest", where),
          .learning_rate = json_field<double>(json, "learning_rate", where),
          .draws = json_field<std::int64_t>(json, "draws", where),
          .seed = static_cast<std::uint64_t>(json_field<std::int64_t>(json, "seed", where)),
          .steps = json_field<std::int64_t>(json, "steps", where)};
}

SweepPoint sweep_point(const SweepFreeze& freeze, const SweepTraining& training, SweepReason reason,
                       const std::string& setting) {
  SweepPoint point{.reason = reason,
                   .freeze = freeze.label,
                   .blocks = freeze.blocks,
                   .pruning = freeze.pruning,
                   .plan_digest = freeze.plan.digest(),
                   .learning_rate = training.learning_rate,
                   .draws = training.draws,
                   .seed = training.seed,
                   .steps = training.steps};
  point.id = sha256_hex(fmt::format("{} {} {} {} {} {}", freeze.setting.empty() ? setting : freeze.setting,
                                    point.plan_digest, point.learning_rate, point.draws, point.seed, point.steps))
                 .substr(0, kIdDigits);
  return point;
}

}  // namespace thaw
