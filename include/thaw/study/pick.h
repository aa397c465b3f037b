/// How many layers: the configurations of a sweep over their seeds, and the one to take by a stated rule.
///
/// The rule: of the configurations whose mean error is at most that of the best one plus that one's standard error over
/// its seeds, the one that costs least. With a single seed there is no standard error, and the rule gives the best.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/study/sweep_results.h"

namespace thaw {

/// One base, freeze, rate and number of draws, trained with several seeds for the same number of steps.
struct SweepCandidate {
  std::string freeze;
  std::map<std::string, std::int64_t> blocks;
  SweepPruning pruning;
  double learning_rate = 0.0;
  std::int64_t draws = 1;
  std::int64_t steps = 0;
  std::vector<std::string> ids;      ///< of its results, those without the figure left out
  std::vector<std::uint64_t> seeds;  ///< of those
  std::vector<double> errors;        ///< the figure of each
  std::int64_t failed = 0;           ///< results without the figure: it cannot be picked
  double mean = 0.0;                 ///< of `errors`; NaN without one
  std::optional<double> spread;      ///< standard error of the mean: sample deviation / sqrt(n); absent for n < 2
  std::int64_t trainable_parameters = 0;
  std::optional<std::int64_t> planned_peak_bytes;
  std::optional<double> planned_step_flops;
  double seconds = 0.0;             ///< mean over its results
  double samples_per_second = 0.0;  ///< likewise

  [[nodiscard]] bool complete() const noexcept { return failed == 0 && !errors.empty(); }
  /// Of base and freeze.
  [[nodiscard]] std::string name() const { return configuration_name(freeze, pruning); }
};

/// The configurations that were trained for `steps`, in the order of the results. `figure`: SweepResult::figure.
[[nodiscard]] std::vector<SweepCandidate> sweep_candidates(std::span<const SweepResult> results,
                                                           const std::string& figure, std::int64_t steps);

enum class SweepCost {
  parameters,  ///< trainable ones; of equal ones the fewer operations a step
  memory,      ///< planned peak
  time,        ///< seconds as they were measured: not the same in every run
};
/// "parameters", "memory", "time". @throws UsageError for another word
[[nodiscard]] SweepCost parse_sweep_cost(std::string_view text);
[[nodiscard]] std::string_view sweep_cost_name(SweepCost cost);

struct Pick {
  SweepCandidate best;      ///< least mean error
  SweepCandidate picked;    ///< what the rule says
  double limit = 0.0;       ///< mean of the best plus its standard error
  std::int64_t within = 0;  ///< configurations at or below the limit
  SweepCost cost = SweepCost::parameters;
  std::string figure;

  /// The rule and its numbers in a sentence or two.
  [[nodiscard]] std::string reason() const;
  [[nodiscard]] Json to_json() const;
};

/// nullopt when no candidate is complete. A candidate without the figure that the cost asks for is never picked, unless
/// none has it. Of equal costs the smaller error, then the earlier.
[[nodiscard]] std::optional<Pick> pick(std::span<const SweepCandidate> candidates, SweepCost cost,
                                       const std::string& figure);

}  // namespace thaw
