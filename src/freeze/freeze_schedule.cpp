#include "thaw/freeze/freeze_schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "split_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"
#include "thaw/tensor/random.h"

namespace thaw {
namespace {

constexpr std::string_view kPhaseGrammar =
    "phases like '500: language=2; 1000: language=4', each behind the one before";
constexpr std::string_view kRotatingGrammar = "a stack and numbers like 'language,blocks=2,every=50'";
/// Keys of the order stream that no epoch of a sampler uses.
constexpr std::uint64_t kBlocksOfAStack = std::uint64_t{1} << 43U;

[[noreturn]] void refuse(std::string_view where, std::string_view expected, std::string_view found) {
  throw UsageError(
      Problem{.where = std::string(where), .expected = std::string(expected), .found = fmt::format("'{}'", found)});
}

std::optional<std::int64_t> whole_number(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

LayerFreezePolicy joined(const LayerFreezePolicy& first, const LayerFreezePolicy& second) {
  std::vector<std::string> rules = first.rules();
  for (const std::string& rule : second.rules()) rules.push_back(rule);
  return rules.empty() ? LayerFreezePolicy{} : LayerFreezePolicy::parse(fmt::format("{}", fmt::join(rules, ",")));
}

/// The plan in which everything trains that trains in one of `plans`, with their rules as they were written.
FreezePlan union_of(const FreezeSchedule::Resolve& resolve, const LayerFreezePolicy& rules,
                    const std::vector<FreezePlan>& plans) {
  LayerFreezePolicy all = rules;
  for (const FreezePlan& plan : plans) {
    for (const std::string& name : plan.names(ParameterClass::trainable)) all.train(name);
  }
  return resolve(all);
}

const StackPlan& stack_named(const std::string& name, const FreezePlan& plan) {
  std::vector<std::string> names;
  for (const StackPlan& stack : plan.stacks) {
    if (stack.name == name) return stack;
    names.push_back(stack.name);
  }
  throw UsageError(Problem{.where = name, .expected = "a block stack by its full name", .fix = suggest(name, names)});
}

}  // namespace

std::vector<PhaseRules> FreezeSchedule::parse_phases(std::string_view text) {
  std::vector<PhaseRules> phases;
  for (const std::string_view part : split(text, ';')) {
    const std::size_t colon = part.find(':');
    const auto step = colon == std::string_view::npos ? std::nullopt : whole_number(trimmed(part.substr(0, colon)));
    const bool later = step && *step > (phases.empty() ? 0 : phases.back().first_step);
    if (!later) refuse("freeze schedule", kPhaseGrammar, part);
    phases.push_back({.first_step = *step, .rules = LayerFreezePolicy::parse(part.substr(colon + 1))});
  }
  return phases;
}

RotatingBlocks FreezeSchedule::parse_rotating(std::string_view text) {
  RotatingBlocks rotating;
  for (const std::string_view part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos && rotating.stack.empty() && !part.empty()) {
      rotating.stack = part;
      continue;
    }
    const std::string_view name = trimmed(part.substr(0, equals));
    const auto number =
        equals == std::string_view::npos ? std::nullopt : whole_number(trimmed(part.substr(equals + 1)));
    if (!number || *number < 1 || (name != "blocks" && name != "every"))
      refuse("rotating blocks", kRotatingGrammar, part);
    (name == "blocks" ? rotating.blocks : rotating.every) = *number;
  }
  if (rotating.stack.empty()) refuse("rotating blocks", kRotatingGrammar, text);
  return rotating;
}

FreezeSchedule::FreezeSchedule(Resolve resolve, const LayerFreezePolicy& rules, const std::vector<PhaseRules>& phases)
    : resolve_(std::move(resolve)), rules_(rules), phases_{{.first_step = 0, .rules = {}}} {
  for (const PhaseRules& phase : phases) {
    if (phase.first_step <= phases_.back().first_step) {
      refuse("freeze schedule", kPhaseGrammar,
             fmt::format("{} behind {}", phase.first_step, phases_.back().first_step));
    }
    phases_.push_back(phase);
  }
  std::vector<FreezePlan> plans;
  for (std::size_t phase = 0; phase < phases_.size(); ++phase)
    plans.push_back(plan_of(static_cast<std::int64_t>(phase)));
  whole_ = union_of(resolve_, rules_, plans);
  whole_.rules = rules_.rules();
  for (const PhaseRules& phase : phases) {
    whole_.rules.push_back(fmt::format("from step {}: {}", phase.first_step, fmt::join(phase.rules.rules(), ",")));
  }
}

FreezeSchedule::FreezeSchedule(Resolve resolve, const LayerFreezePolicy& rules, const RotatingBlocks& rotating)
    : resolve_(std::move(resolve)), rules_(rules), rotating_(rotating) {
  LayerFreezePolicy all = rules;
  whole_ = resolve_(all.all(rotating.stack));
  learnable_ = stack_named(rotating.stack, whole_).trainable_blocks;
  const auto most = static_cast<std::int64_t>(learnable_.size());
  if (rotating.blocks < 1 || rotating.blocks > most || rotating.every < 1) {
    refuse("rotating blocks",
           fmt::format("1 to {} blocks of '{}', which can learn, for at least one step", most, rotating.stack),
           fmt::format("blocks={},every={}", rotating.blocks, rotating.every));
  }
  whole_.rules = rules_.rules();
  whole_.rules.push_back(fmt::format("{} of the blocks of {} at a time, drawn anew every {} steps", rotating.blocks,
                                     rotating.stack, rotating.every));
}

std::int64_t FreezeSchedule::phase_at(std::int64_t step) const {
  if (phases_.empty()) return step / rotating_.every;
  const auto next =
      std::find_if(phases_.begin(), phases_.end(), [step](const PhaseRules& phase) { return phase.first_step > step; });
  return next - phases_.begin() - 1;
}

std::vector<std::int64_t> FreezeSchedule::blocks_of(std::int64_t phase) const {
  if (!phases_.empty()) return {};
  const RandomKey key{.seed = rotating_.seed,
                      .stream = RandomStream::order,
                      .step = static_cast<std::uint64_t>(phase),
                      .sample = kBlocksOfAStack};
  const std::vector<std::int64_t> order = random_permutation(key, static_cast<std::int64_t>(learnable_.size()));
  std::vector<std::int64_t> blocks;
  for (std::int64_t i = 0; i < rotating_.blocks; ++i) {
    blocks.push_back(learnable_[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]);
  }
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

LayerFreezePolicy FreezeSchedule::rules_of(std::int64_t phase) const {
  if (!phases_.empty()) return joined(rules_, phases_.at(static_cast<std::size_t>(phase)).rules);
  LayerFreezePolicy rules = rules_;
  return rules.blocks(rotating_.stack, blocks_of(phase));
}

FreezePlan FreezeSchedule::plan_of(std::int64_t phase) const {
  const bool known = phase >= 0 && (phases_.empty() || phase < static_cast<std::int64_t>(phases_.size()));
  if (!known) {
    throw UsageError(
        Problem{.where = "FreezeSchedule::plan_of",
                .expected = phases_.empty() ? "a phase from 0" : fmt::format("a phase below {}", phases_.size()),
                .found = std::to_string(phase)});
  }
  return resolve_(rules_of(phase));
}

}  // namespace thaw
