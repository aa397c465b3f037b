/// Which blocks to take out of a policy, and taking them out.
///
/// References: CLP, "Finetuning Vision-Language-Action Models Requires Fewer Layers Than You Think", arXiv 2606.20246,
/// section 3 and table 5; "Drop-Then-Recovery", arXiv 2606.27755 (GateProbe); ShortGPT (block influence).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/policy/policy.h"
#include "thaw/policy/removal.h"
#include "thaw/study/measures.h"

namespace thaw {

// --- choosing, on plain numbers ---

struct ClpOptions {
  std::int64_t remove = 1;
  /// What the choice begins with; lowered to the next similarity below until there are enough candidates.
  double threshold = 0.95;
  /// Blocks of every period-th place are of one kind, and each one left must keep its kind.
  std::int64_t period = 1;
  /// The paper scores a block against the one before it, so the first has no score. Its published lists remove block
  /// 1 beside a kept block 0: the first counts as the beginning of a run that block 1 goes on with. False: a run begins
  /// at a scored block.
  bool first_block_anchors = true;
};

struct ClpChoice {
  std::vector<std::int64_t> removed;            ///< ascending
  double threshold = 0.0;                       ///< where it ended
  std::vector<std::vector<std::int64_t>> runs;  ///< consecutive blocks at or above it, of two or more
  std::vector<std::int64_t> candidates;         ///< every block of a run but its first
};

/// CLP: s[l] is how alike the outputs of blocks l-1 and l are. Consecutive blocks with s >= threshold form a run; the
/// first of each stays, the others are candidates; of those the `remove` with the greatest s go (of equal ones the
/// earlier). The threshold falls until that is possible. s[0] is not read, and NaN is below every threshold. With a
/// period the candidates with the greatest sum of s that keep it go.
/// @throws UsageError when so many cannot be removed whatever the threshold
[[nodiscard]] ClpChoice choose_clp(std::span<const double> similarity, const ClpOptions& options);

/// The `remove` blocks with the least sum of importance that keep the period; of equal ones the earlier. Those whose
/// importance is NaN stay. @throws UsageError when so many cannot be removed
[[nodiscard]] std::vector<std::int64_t> choose_least(std::span<const double> importance, std::int64_t remove,
                                                     std::int64_t period = 1);

// --- published lists ---

struct PruningPreset {
  std::string name;
  std::string policy_type;
  std::string source;
  std::map<std::string, std::int64_t> blocks;  ///< that the stacks have before
  BlockLists removed;
};

[[nodiscard]] const std::vector<PruningPreset>& pruning_presets();

/// What the preset takes out of such a model. @throws UsageError for an unknown name (the nearest ones); MismatchError
/// when the model is of another type or depth
[[nodiscard]] BlockLists preset_removal(const std::string& name, const ModelLayout& layout);

// --- choosing for a model ---

enum class PruningMethod { clp, gate_probe, block_influence, list, preset };
/// "clp", "gate-probe", "block-influence", "list", "preset". @throws UsageError for another word
[[nodiscard]] PruningMethod parse_pruning_method(std::string_view text);

/// Which estimate CLP ranks by.
enum class Similarity { concatenated, biased, unbiased, trimmed };
/// "concatenated" (the paper's), "biased", "unbiased", "trimmed". @throws UsageError for another word
[[nodiscard]] Similarity parse_similarity(std::string_view text);

struct PruneOptions {
  PruningMethod method = PruningMethod::clp;
  std::string stack = "language";    ///< and those joined with it; not read by a preset
  std::int64_t remove = 0;           ///< how many units (clp, gate-probe, block-influence)
  std::vector<std::int64_t> blocks;  ///< the list by hand
  std::string preset;
  std::int64_t minimum_left = 2;  ///< units of the stack that must stay
  Similarity similarity = Similarity::concatenated;
  std::string group = "all";  ///< whose rows decide; "mean": the mean over the groups
  double threshold = 0.95;
  bool first_block_anchors = true;

  /// Whether the choice looks at measures, and whether at those of gradients.
  [[nodiscard]] bool needs_measures() const;
  [[nodiscard]] bool needs_gradients() const;
  /// What can be said before measuring. @throws UsageError for an unknown stack (the nearest names), nothing to remove,
  /// or fewer units left than the minimum
  void validate(const ModelLayout& layout) const;
};

struct PruningChoice {
  BlockLists removed;
  Json why;  ///< method, numbers and thresholds behind the choice
};

/// `report` may be null when options.needs_measures() is false. Joined stacks get one list: units are ranked by the
/// mean of the stacks' similarities or influences, or by the sum of their gate probes. A stack that has no value for a
/// unit (the output of a language model's last block is read by nobody) is taken to differ from the others there by as
/// much as elsewhere.
/// @throws UsageError for an unknown stack, group or preset (the nearest names), fewer units left than the minimum, or
/// as check_removal
[[nodiscard]] PruningChoice choose_blocks(const ModelLayout& layout, const PruneOptions& options,
                                          const MeasureReport* report);

// --- pruning ---

/// What was removed, what each block left is called now, and why; parameters before and after.
[[nodiscard]] Json pruning_report(const ModelLayout& before, const ModelLayout& after, const PruningChoice& choice);

/// What a report says was removed, of the stacks that lost blocks. @throws FormatError naming `where` and the field
[[nodiscard]] BlockLists removed_blocks(const Json& report, const std::string& where);

/// The same as a table.
[[nodiscard]] std::string pruning_table(const Json& report);

/// Writes `policy` without the chosen blocks as an ordinary checkpoint, with pruning.json beside it and the tokenizer
/// files of the policy's folder. Returns the report. `output` must not exist.
/// @throws UsageError as Policy::without_blocks, or when `output` exists; IoError
Json write_pruned(const Policy& policy, const PruningChoice& choice, const std::filesystem::path& output);

}  // namespace thaw
