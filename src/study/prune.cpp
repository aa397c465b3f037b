#include "thaw/study/prune.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "numbers_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

namespace fs = std::filesystem;
using Blocks = std::vector<std::int64_t>;

const std::vector<std::pair<std::string, PruningMethod>> kMethods = {
    {"clp", PruningMethod::clp},
    {"gate-probe", PruningMethod::gate_probe},
    {"block-influence", PruningMethod::block_influence},
    {"list", PruningMethod::list},
    {"preset", PruningMethod::preset}};
const std::vector<std::pair<std::string, Similarity>> kSimilarities = {{"concatenated", Similarity::concatenated},
                                                                       {"biased", Similarity::biased},
                                                                       {"unbiased", Similarity::unbiased},
                                                                       {"trimmed", Similarity::trimmed}};

template <class Value>
Value parse_word(const std::vector<std::pair<std::string, Value>>& words, std::string_view text,
                 const std::string& what) {
  std::vector<std::string> known;
  for (const auto& [word, value] : words) {
    if (word == text) return value;
    known.push_back(word);
  }
  throw UsageError(Problem{.where = what + " '" + std::string(text) + "'",
                           .expected = fmt::format("{}", fmt::join(known, ", ")),
                           .fix = suggest(text, known)});
}

template <class Value>
std::string word_of(const std::vector<std::pair<std::string, Value>>& words, Value wanted) {
  for (const auto& [word, value] : words) {
    if (value == wanted) return word;
  }
  return {};
}

// --- scores of blocks and of units ---

/// s[l] of `blocks` blocks: the similarity of the outputs of blocks l - 1 and l. States are one ahead of blocks.
std::vector<double> scores_of(const GroupMeasures& group, Similarity similarity, std::int64_t blocks) {
  std::vector<double> scores(static_cast<std::size_t>(blocks), kNoNumber);
  const std::int64_t measured = std::min<std::int64_t>(blocks, group.cosine.size(0) - 1);
  for (std::int64_t l = 1; l < measured; ++l) {
    const auto at_l = static_cast<std::size_t>(l);
    if (similarity == Similarity::concatenated) {
      scores[at_l] = group.concatenated.at(at_l);
      continue;
    }
    const at::Tensor& matrix = similarity == Similarity::biased     ? group.cka.biased
                               : similarity == Similarity::unbiased ? group.cka.unbiased
                                                                    : group.cka.trimmed;
    scores[at_l] = matrix[l][l + 1].item<double>();
  }
  return scores;
}

enum class Combine { mean, sum };

/// Of lists of one length, entry by entry, those that are numbers; NaN where none is.
std::vector<double> combined(const std::vector<std::vector<double>>& lists, Combine how) {
  std::vector<double> result(lists.front().size(), kNoNumber);
  for (std::size_t i = 0; i < result.size(); ++i) {
    double sum = 0.0;
    std::int64_t count = 0;
    for (const std::vector<double>& list : lists) {
      if (std::isnan(list[i])) continue;
      sum += list[i];
      ++count;
    }
    if (count > 0) result[i] = how == Combine::mean ? sum / static_cast<double>(count) : sum;
  }
  return result;
}

/// The mean over lists of one length, where a list without an entry is taken to differ from the others there by as much
/// as it does where all have one: the last block of a language model, whose output nobody reads, does not make its unit
/// look another than it is.
std::vector<double> joint_mean(std::vector<std::vector<double>> lists) {
  std::vector<std::size_t> complete;
  for (std::size_t i = 0; i < lists.front().size(); ++i) {
    const bool all = std::none_of(lists.begin(), lists.end(), [i](const auto& list) { return std::isnan(list[i]); });
    if (all) complete.push_back(i);
  }
  if (complete.empty()) return combined(lists, Combine::mean);
  double centre = 0.0;
  std::vector<double> means;
  for (const std::vector<double>& list : lists) {
    double sum = 0.0;
    for (const std::size_t i : complete) sum += list[i];
    means.push_back(sum / static_cast<double>(complete.size()));
    centre += means.back() / static_cast<double>(lists.size());
  }
  for (std::size_t k = 0; k < lists.size(); ++k) {
    for (double& value : lists[k]) value += centre - means[k];
  }
  return combined(lists, Combine::mean);
}

/// The groups whose rows decide: one by name, or with "mean" every kind of token. None when the stack has no such rows.
std::vector<const GroupMeasures*> deciding_groups(const StackMeasures& stack, const std::string& name) {
  if (name == "all" && !stack.groups.empty()) return {&stack.group(name)};
  std::vector<const GroupMeasures*> groups;
  for (const GroupMeasures& group : stack.groups) {
    const bool mixed = group.name == "all" && stack.groups.size() > 1;
    if (group.name == name || (name == "mean" && !mixed)) groups.push_back(&group);
  }
  return groups;
}

std::vector<double> group_scores(const StackMeasures& stack, const GroupMeasures& group, const PruneOptions& options) {
  if (options.method == PruningMethod::gate_probe && !group.gate_probe.empty()) return group.gate_probe;
  if (options.method != PruningMethod::gate_probe && group.cosine.defined()) {
    return options.method == PruningMethod::clp ? scores_of(group, options.similarity, stack.blocks)
                                                : group.block_influence(stack.blocks);
  }
  throw UsageError(Problem{.where = "stack '" + stack.name + "'",
                           .expected = "the measure that '" + word_of(kMethods, options.method) + "' ranks by",
                           .found = "none in the report"});
}

std::vector<double> block_scores(const StackMeasures& stack, const PruneOptions& options) {
  std::vector<std::vector<double>> lists{std::vector<double>(static_cast<std::size_t>(stack.blocks), kNoNumber)};
  for (const GroupMeasures* group : deciding_groups(stack, options.group)) {
    lists.push_back(group_scores(stack, *group, options));
  }
  return combined(lists, Combine::mean);
}

/// A unit of several blocks: CLP's score is that of its first block, importance adds up.
std::vector<double> unit_scores(const std::vector<double>& blocks, std::int64_t units, PruningMethod method) {
  const std::size_t each = blocks.size() / static_cast<std::size_t>(units);
  std::vector<double> scores;
  for (std::size_t unit = 0; unit < static_cast<std::size_t>(units); ++unit) {
    std::vector<std::vector<double>> parts;
    for (std::size_t i = 0; i < each; ++i) parts.push_back({blocks[unit * each + i]});
    scores.push_back(method == PruningMethod::clp ? blocks[unit * each] : combined(parts, Combine::sum).front());
  }
  return scores;
}

/// Scores by stack and together, as JSON on the way.
std::vector<double> joint_scores(const ModelLayout& layout, const PruneOptions& options, const MeasureReport& report,
                                 Json& why) {
  const std::int64_t units = removable_units(layout, options.stack);
  const std::vector<BlockStack> stacks = joined_stacks(layout, options.stack);
  const bool decided = std::any_of(stacks.begin(), stacks.end(), [&](const BlockStack& stack) {
    return !deciding_groups(report.stack(stack.name), options.group).empty();
  });
  if (!decided) static_cast<void>(report.stack(options.stack).group(options.group));  // says what there is
  std::vector<std::vector<double>> lists;
  for (const BlockStack& stack : stacks) {
    const std::vector<double> blocks = block_scores(report.stack(stack.name), options);
    why["scores"][stack.name] = numbers_json(blocks);
    lists.push_back(unit_scores(blocks, units, options.method));
  }
  std::vector<double> scores =
      options.method == PruningMethod::gate_probe ? combined(lists, Combine::sum) : joint_mean(lists);
  why["scores"]["together"] = numbers_json(scores);
  return scores;
}

// --- choosing ---

void check_left(std::int64_t units, std::int64_t removed, const PruneOptions& options) {
  if (units - removed >= options.minimum_left) return;
  throw UsageError(
      Problem{.where = "stack '" + options.stack + "'",
              .expected = fmt::format("at least {} of {} blocks left (the minimum)", options.minimum_left, units),
              .found = fmt::format("{} with {} removed", units - removed, removed),
              .fix = "Remove fewer, or lower the minimum."});
}

Blocks clp_units(const std::vector<double>& scores, const PruneOptions& options, std::int64_t period, Json& why) {
  const ClpChoice choice = choose_clp(scores, {.remove = options.remove,
                                               .threshold = options.threshold,
                                               .period = period,
                                               .first_block_anchors = options.first_block_anchors});
  why["similarity"] = word_of(kSimilarities, options.similarity);
  why["threshold"] = {{"asked", options.threshold}, {"used", choice.threshold}};
  why["runs"] = choice.runs;
  why["candidates"] = choice.candidates;
  return choice.removed;
}

/// The period in units: every stack of several blocks a unit keeps its own.
std::int64_t unit_period(const ModelLayout& layout, const std::string& stack) {
  const std::int64_t units = removable_units(layout, stack);
  std::int64_t period = 1;
  for (const BlockStack& one : joined_stacks(layout, stack)) {
    if (one.blocks == units) period = std::max(period, one.period);
  }
  return period;
}

Blocks ranked_units(const ModelLayout& layout, const PruneOptions& options, const MeasureReport* report, Json& why) {
  if (report == nullptr) {
    throw UsageError(Problem{.where = "choosing blocks", .expected = "measures of the policy", .found = "none"});
  }
  why["group"] = options.group;
  why["calibration"] = {{"samples", report->samples}, {"seed", report->seed}, {"frames", report->frames}};
  const std::int64_t period = unit_period(layout, options.stack);
  why["period"] = period;
  const std::vector<double> scores = joint_scores(layout, options, *report, why);
  if (options.method == PruningMethod::clp) return clp_units(scores, options, period, why);
  return choose_least(scores, options.remove, period);
}

BlockLists removal(const ModelLayout& layout, const PruneOptions& options, const MeasureReport* report, Json& why) {
  if (options.method == PruningMethod::preset) {
    why["preset"] = options.preset;
    return preset_removal(options.preset, layout);
  }
  const std::int64_t units = removable_units(layout, options.stack);
  why["stack"] = options.stack;
  why["minimum_left"] = options.minimum_left;
  if (options.method != PruningMethod::list) {
    return blocks_of_units(layout, options.stack, ranked_units(layout, options, report, why));
  }
  BlockLists lists = blocks_of_units(layout, options.stack, options.blocks);
  const auto removed = static_cast<std::int64_t>(lists.at(options.stack).size());
  check_left(units, removed * units / layout.stack(options.stack).blocks, options);
  return lists;
}

// --- the report ---

std::int64_t parameters_of(const ModelLayout& layout) {
  std::int64_t count = 0;
  for (const ParameterInfo& parameter : layout.parameters) count += parameter.numel();
  return count;
}

Json stack_report(const BlockStack& before, const BlockLists& removed) {
  const auto found = removed.find(before.name);
  const Blocks gone = found == removed.end() ? Blocks{} : found->second;
  const Blocks kept = left_over(before.blocks, gone);
  return {{"name", before.name},
          {"blocks_before", before.blocks},
          {"blocks_after", kept.size()},
          {"removed", gone},
          {"kept", kept}};  // block i of the pruned stack is block kept[i] of the old one
}

/// Configuration and vocabulary files of a tokenizer beside the checkpoint.
void copy_tokenizer(const fs::path& from, const fs::path& to) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                           "vocab.json", "merges.txt", "tokenizer.model"}) {
    if (fs::is_regular_file(from / name)) fs::copy_file(from / name, to / name);
  }
}

void copy_tokenizers(const fs::path& source, const fs::path& target) {
  if (source.empty()) return;
  copy_tokenizer(source, target);
  if (!fs::is_directory(source / "tokenizer")) return;
  fs::create_directories(target / "tokenizer");
  copy_tokenizer(source / "tokenizer", target / "tokenizer");
}

}  // namespace

PruningMethod parse_pruning_method(std::string_view text) { return parse_word(kMethods, text, "method"); }

Similarity parse_similarity(std::string_view text) { return parse_word(kSimilarities, text, "similarity"); }

bool PruneOptions::needs_measures() const { return method != PruningMethod::list && method != PruningMethod::preset; }

bool PruneOptions::needs_gradients() const { return method == PruningMethod::gate_probe; }

void PruneOptions::validate(const ModelLayout& layout) const {
  if (!needs_measures()) return;
  const std::int64_t units = removable_units(layout, stack);
  if (remove < 1) {
    throw UsageError(Problem{.where = "blocks to remove", .expected = "at least 1", .found = std::to_string(remove)});
  }
  check_left(units, remove, *this);
}

PruningChoice choose_blocks(const ModelLayout& layout, const PruneOptions& options, const MeasureReport* report) {
  options.validate(layout);
  PruningChoice choice{.removed = {}, .why = {{"method", word_of(kMethods, options.method)}}};
  choice.removed = removal(layout, options, report, choice.why);
  check_removal(layout, choice.removed);
  return choice;
}

Json pruning_report(const ModelLayout& before, const ModelLayout& after, const PruningChoice& choice) {
  Json report{{"schema", 1}, {"type", before.type}, {"stacks", Json::array()}};
  for (const BlockStack& stack : before.stacks) report["stacks"].push_back(stack_report(stack, choice.removed));
  report["parameters_before"] = parameters_of(before);
  report["parameters_after"] = parameters_of(after);
  report["why"] = choice.why;
  return report;
}

BlockLists removed_blocks(const Json& report, const std::string& where) {
  BlockLists removed;
  for (const Json& stack : json_field<Json>(report, "stacks", where)) {
    Blocks blocks = json_field<Blocks>(stack, "removed", where);
    if (!blocks.empty()) removed[json_field<std::string>(stack, "name", where)] = std::move(blocks);
  }
  return removed;
}

std::string pruning_table(const Json& report) {
  std::string text;
  for (const Json& stack : report["stacks"]) {
    const auto removed = stack["removed"].get<Blocks>();
    text += fmt::format("  {:<18} {:>3} -> {:>3} blocks   {}\n", stack["name"].get<std::string>(),
                        stack["blocks_before"].get<std::int64_t>(), stack["blocks_after"].get<std::int64_t>(),
                        removed.empty() ? "unchanged" : fmt::format("without {}", fmt::join(removed, ", ")));
  }
  const auto was = report["parameters_before"].get<double>();
  const auto is = report["parameters_after"].get<double>();
  return text + fmt::format("  {:<18} {:.1f} M -> {:.1f} M ({:+.1f} %)\n", "parameters", was / 1e6, is / 1e6,
                            100.0 * (is - was) / was);
}

Json write_pruned(const Policy& policy, const PruningChoice& choice, const fs::path& output) {
  if (fs::exists(output)) {
    throw UsageError(Problem{.where = output.string(),
                             .expected = "a folder that does not exist yet",
                             .found = "something there",
                             .fix = "Choose another output folder or remove this one."});
  }
  const std::shared_ptr<Policy> pruned = policy.without_blocks(choice.removed);
  Json report = pruning_report(policy.layout(), pruned->layout(), choice);
  if (!output.parent_path().empty()) fs::create_directories(output.parent_path());
  StagedDirectory staged(output);
  pruned->save_pretrained(staged.path());
  copy_tokenizers(policy.source(), staged.path());
  write_text_atomic(staged.path() / "pruning.json", report.dump(2) + "\n");
  staged.commit();
  return report;
}

}  // namespace thaw
