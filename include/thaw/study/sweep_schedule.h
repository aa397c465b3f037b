/// Which points a sweep trains next: a pure function of its plan and of what it has found so far, so that a sweep that
/// was killed goes on as if it had not been.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "thaw/study/sweep_grid.h"
#include "thaw/study/sweep_results.h"

namespace thaw {

/// The best rate of every freeze by short trainings with the first seed and the first number of draws. While the best
/// of them lies at an end of the list, one more rate beyond that end is tried, at the distance of the two before it.
/// Equal ones: the smaller rate.
struct RateSearch {
  std::int64_t steps = 0;   ///< of each short training
  std::int64_t beyond = 2;  ///< rates tried beyond the list at most, per freeze
};

/// Successive halving over configurations (freeze, rate, draws): all of them train for the steps of the first rung with
/// every seed, the better part by the mean over seeds trains anew for those of the next, and so on to the full length.
/// Every rung is a whole training with a schedule of its own length, so any line can be repeated by itself.
struct Halving {
  std::vector<std::int64_t> rungs;  ///< steps, rising, below SweepPlan::steps
  double keep = 0.5;                ///< share that goes on, rounded up
};

struct SweepPlan {
  std::vector<SweepFreeze> freezes;
  std::vector<double> learning_rates;
  std::vector<std::int64_t> draws{1};
  std::vector<std::uint64_t> seeds;
  std::int64_t steps = 0;
  std::optional<RateSearch> rate_search;
  std::optional<Halving> halving;
  std::string figure = "loss";  ///< what is compared (SweepResult::figure); less is better
  std::string setting;          ///< digest of the setting

  /// @throws UsageError naming the field
  void validate() const;
};

/// Every point that is decided by `results`, in the order of results.jsonl; the sweep has ended when all of them have a
/// result. A point whose result has no such figure counts as the worst.
[[nodiscard]] std::vector<SweepPoint> decided_points(const SweepPlan& plan, std::span<const SweepResult> results);

/// Those of them without a result.
[[nodiscard]] std::vector<SweepPoint> pending_points(const SweepPlan& plan, std::span<const SweepResult> results);

}  // namespace thaw
