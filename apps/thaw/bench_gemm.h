// How fast this machine multiplies the matrices that a line of stages multiplies: the yardstick for what the stages
// reach.
#pragma once

#include <string>
#include <vector>

#include "bench_policy.h"
#include "thaw/core/json.h"
#include "thaw/freeze/plan.h"
#include "thaw/policy/layout.h"

namespace thaw::cli {

/// What a group of stages reached in a step, and what the machine reaches on products of the same shapes with weights
/// that are in no cache (freeze/calibration.h).
struct GemmShare {
  double flops = 0.0;         ///< of the group in the step, attention included
  double seconds = 0.0;       ///< that they took
  double plain_rate = 0.0;    ///< FLOP/s of the products by at::linear on plain weights
  double library_rate = 0.0;  ///< the same by nn::linear, as a policy calls it
  /// flops / seconds over the better of the two rates.
  [[nodiscard]] double share() const;
  [[nodiscard]] Json to_json() const;
};

/// Forward FLOPs of the blocks of `stack` that ran, for `samples` samples and one draw, over their own time. nullopt
/// when none ran.
[[nodiscard]] std::optional<GemmShare> share_of_stack(const ModelLayout& layout, const std::vector<StageTime>& times,
                                                      const std::string& stack, std::int64_t samples);

/// Forward and backward FLOPs of every stage that ran, over the `seconds` of the whole step.
[[nodiscard]] GemmShare share_of_step(const ModelLayout& layout, const FreezePlan& plan,
                                      const std::vector<StageTime>& times, std::int64_t samples, double seconds);

}  // namespace thaw::cli
