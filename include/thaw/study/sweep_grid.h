/// What a sweep compares: bases × freezes × learning rates × draws × seeds, and the id of every training among them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/freeze/plan.h"
#include "thaw/policy/layout.h"
#include "thaw/policy/policy.h"

namespace thaw {

/// In a list of block counts: as many as can learn.
inline constexpr std::int64_t kAllBlocks = -1;

/// How many of the last blocks of one stack train.
struct StackBlocks {
  std::string stack;  ///< as in a freeze rule; "*": every stack that can learn, each as far as it has blocks
  std::vector<std::int64_t> blocks;
};

struct SweepGrid {
  LayerFreezePolicy base;              ///< applied first in every freeze
  std::vector<StackBlocks> stacks;     ///< of several stacks, every combination is a freeze
  std::vector<std::string> rules;      ///< each is one freeze more, in the grammar of LayerFreezePolicy
  std::vector<double> learning_rates;  ///< peak rates
  std::vector<std::int64_t> draws{1};
  std::vector<std::uint64_t> seeds{1000};

  /// @throws UsageError naming the field: an empty list, a value out of range or twice in a list
  void validate() const;
};

/// What was taken out of a policy before it trains.
struct SweepPruning {
  std::int64_t count = 0;  ///< blocks of the stack that was asked for; 0: the policy is whole
  BlockLists removed;      ///< of that stack and those joined with it, by the numbers they had

  bool operator==(const SweepPruning&) const = default;
};

/// "language=2", or "language=2 with 4 pruned".
[[nodiscard]] std::string configuration_name(const std::string& freeze, const SweepPruning& pruning);

/// One row of the grid: which blocks of which base train.
struct SweepFreeze {
  std::string label;                           ///< "language=2", "language=2,expert=4", or the rules as given
  std::map<std::string, std::int64_t> blocks;  ///< stack -> last blocks that train; empty for explicit rules
  LayerFreezePolicy policy;
  FreezePlan plan;
  SweepPruning pruning;
  std::string setting;  ///< digest of the setting where bases have their own; empty: that of the sweep
};

/// All freezes of the grid in order, of those that train the same tensors the first. Everything a typing error can do
/// is found here, before anything runs. @throws UsageError as resolve() and validate(), and when more blocks are asked
/// for than can learn
[[nodiscard]] std::vector<SweepFreeze> sweep_freezes(
    const SweepGrid& grid, const ModelLayout& layout,
    const std::function<FreezePlan(const LayerFreezePolicy&)>& resolve);

/// Why a point is trained.
enum class SweepReason {
  rate_search,  ///< to find the rate of its freeze
  rung,         ///< a shorter training, after which the worse half leaves
  full,
};
[[nodiscard]] std::string_view sweep_reason_name(SweepReason reason);

/// Adds "pruned", the count, and "removed", the lists; nothing for a whole policy.
void add_pruning(Json& json, const SweepPruning& pruning);

/// One training. Two points with the same id are the same training.
struct SweepPoint {
  std::string id;  ///< 12 hex digits: digest of the setting and of all below but `reason` and the wording of the freeze
  SweepReason reason = SweepReason::full;
  std::string freeze;                          ///< SweepFreeze::label
  std::map<std::string, std::int64_t> blocks;  ///< SweepFreeze::blocks
  SweepPruning pruning;                        ///< SweepFreeze::pruning
  std::string plan_digest;                     ///< FreezePlan::digest()
  double learning_rate = 0.0;
  std::int64_t draws = 1;
  std::uint64_t seed = 0;
  std::int64_t steps = 0;

  [[nodiscard]] std::string name() const { return configuration_name(freeze, pruning); }
  [[nodiscard]] Json to_json() const;
  /// @throws FormatError naming the field
  [[nodiscard]] static SweepPoint from_json(const Json& json, const std::string& where);
};

/// What tells one training of `freeze` from another.
struct SweepTraining {
  double learning_rate = 0.0;
  std::int64_t draws = 1;
  std::uint64_t seed = 0;
  std::int64_t steps = 0;
};

/// `setting`: digest of everything that all points of the sweep share (base, data, options), where the freeze has none
/// of its own.
[[nodiscard]] SweepPoint sweep_point(const SweepFreeze& freeze, const SweepTraining& training, SweepReason reason,
                                     const std::string& setting);

}  // namespace thaw
