#include "sweep_bases.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "measure_flags.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/core/log.h"
#include "thaw/models/registry.h"
#include "thaw/train/policy_task.h"

namespace thaw::cli {
namespace {

namespace fs = std::filesystem;

std::vector<std::int64_t> parse_prune_counts(const std::string& text) {
  std::vector<std::int64_t> counts = parse_numbers(text, "--prune");
  std::sort(counts.begin(), counts.end());
  const auto twice = std::adjacent_find(counts.begin(), counts.end());
  if (twice == counts.end()) return counts;
  throw UsageError(
      Problem{.where = "--prune", .expected = "each number once", .found = fmt::format("{} twice", *twice)});
}

void check(const SweepPruneFlags& flags, std::size_t order) {
  const auto refuse = [](const char* flag, const char* expected, const std::string& found) {
    throw UsageError(Problem{.where = flag, .expected = expected, .found = found});
  };
  if (flags.counts.empty()) {
    if (!flags.stack.empty()) refuse("--prune-stack", "--prune beside it", "none");
    if (!flags.method.empty()) refuse("--prune-method", "--prune beside it", "none");
    if (order > 0) refuse("--prune-order", "--prune beside it", "none");
  }
  if (flags.method.empty()) return;
  if (order > 0) refuse("--prune-order", "no --prune-method beside it", flags.method);
  const PruningMethod method = parse_pruning_method(flags.method);
  if (method != PruningMethod::list && method != PruningMethod::preset) return;
  refuse("--prune-method", "clp, gate-probe or block-influence", flags.method + " (--prune-order gives a list)");
}

/// The swept stack that is named first; the one that thaw prune takes by itself where none is.
std::string stack_of(const SweepPruneFlags& flags, const std::string& swept) {
  if (!flags.stack.empty()) return flags.stack;
  const std::string first = swept.substr(0, swept.find(','));
  return first.empty() || first == "*" ? PruneOptions{}.stack : first;
}

void look_at_grid(const SweepGrid& grid, const Policy& policy, std::int64_t count, const std::string& stack) {
  const auto resolve = [&policy](const LayerFreezePolicy& rules) { return rules.resolve(policy); };
  try {
    static_cast<void>(sweep_freezes(grid, policy.layout(), resolve));
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("with {} blocks of '{}' removed: {}", count, stack, error.what()));
  }
}

}  // namespace

void SweepPruneFlags::add_to(CLI::App& command) {
  command.add_option("--prune", counts,
                     "numbers of blocks to remove before training, as in 0,2,4: every freeze of the grid is trained\n"
                     "with each, counted on the blocks that are left");
  command.add_option("--prune-stack", stack,
                     "stack that loses them, and with it those it is attended to from block by block (default: the\n"
                     "first of --stack)");
  command.add_option("--prune-method", method,
                     "what chooses them, as thaw prune does: clp (the default), gate-probe or block-influence,\n"
                     "measured once on frames of the training episodes");
  command.add_option("--prune-order", order, "or the order by hand, as in 5,6,1,2: 2 of them are blocks 5 and 6");
  command.add_option("--prune-samples", samples, "frames that are measured on");
}

std::vector<std::string> SweepPruneFlags::names() {
  return {"prune", "prune-stack", "prune-method", "prune-order", "prune-samples"};
}

SweepBases::SweepBases(const SweepPruneFlags& flags, const TrainFlags& train, const std::string& swept)
    : flags_(flags),
      train_(train),
      stack_(stack_of(flags, swept)),
      counts_(parse_prune_counts(flags.counts)),
      order_(parse_numbers(flags.order, "--prune-order")) {
  check(flags_, order_.size());
}

bool SweepBases::wanted() const { return !counts_.empty() && counts_.back() > 0; }

Json SweepBases::question() const {
  if (!order_.empty()) return {{"stack", stack_}, {"order", order_}};
  const std::string method = flags_.method.empty() ? "clp" : flags_.method;
  return {{"stack", stack_}, {"method", method}, {"samples", flags_.samples}};
}

PruneOptions SweepBases::options_for(std::int64_t count) const {
  PruneOptions options{.stack = stack_, .remove = count};
  if (!flags_.method.empty()) options.method = parse_pruning_method(flags_.method);
  if (order_.empty()) return options;
  if (count > static_cast<std::int64_t>(order_.size())) {
    throw UsageError(Problem{.where = "--prune",
                             .expected = fmt::format("at most {}, the blocks of --prune-order", order_.size()),
                             .found = std::to_string(count)});
  }
  options.method = PruningMethod::list;
  options.blocks.assign(order_.begin(), order_.begin() + count);
  return options;
}

void SweepBases::choose(const LeRobotDataset& dataset, const TrainOptions& options, const SweepGrid& grid) {
  std::optional<MeasureReport> report;
  for (const std::int64_t count : counts_) {
    if (count == 0 || fs::exists(folder({.count = count}))) continue;
    if (!whole_) whole_ = load_policy(train_.policy);
    const PruneOptions asked = options_for(count);
    asked.validate(whole_->layout());
    if (asked.needs_measures() && !report) report = measured(whole_->layout(), dataset, options);
    const PruningChoice& choice = chosen_[count] = choose_blocks(whole_->layout(), asked, report ? &*report : nullptr);
    look_at_grid(grid, *whole_->without_blocks(choice.removed), count, stack_);
  }
}

MeasureReport SweepBases::measured(const ModelLayout& layout, const LeRobotDataset& dataset,
                                   const TrainOptions& options) const {
  MeasureFlags calibration{
      .dataset = train_.dataset,
      .tokenizer = train_.tokenizer,
      .episodes = fmt::format("{}", fmt::join(choose_episodes(dataset, options).training, ",")),
      .rename_map = train_.rename_map,
      .options = {.samples = flags_.samples, .allow_missing_cameras = options.allow_missing_cameras}};
  return measure_for_pruning(train_.policy, calibration, options_for(counts_.back()), layout);
}

void SweepBases::write() {
  for (const auto& [count, choice] : chosen_) {
    static_cast<void>(write_pruned(*whole_, choice, folder({.count = count})));
    for (const auto& [stack, blocks] : choice.removed) {
      log_info(fmt::format("--prune {}: {} without {}", count, stack, fmt::join(blocks, ", ")));
    }
  }
  chosen_.clear();
  whole_.reset();
}

fs::path SweepBases::folder(const SweepPruning& pruning) const {
  if (pruning.count == 0) return train_.policy;
  return train_.options.output / "bases" / std::to_string(pruning.count);
}

std::vector<SweepBaseSource> SweepBases::sources(const LeRobotDataset& dataset) const {
  std::vector<SweepBaseSource> all;
  for (const std::int64_t count : counts_) {
    SweepPruning pruning{.count = count, .removed = {}};
    TrainFlags from = train_;
    from.policy = folder(pruning).string();
    if (count > 0) {
      const fs::path report = folder(pruning) / "pruning.json";
      pruning.removed = removed_blocks(read_json(report), report.string());
    }
    all.push_back({.pruning = std::move(pruning), .load = [from, &dataset] { return open_policy(from, dataset); }});
  }
  return all;
}

}  // namespace thaw::cli
