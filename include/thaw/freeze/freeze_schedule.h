/// What trains when: later phases with further rules (gradual unfreezing and freezing), or blocks of one stack drawn
/// anew every so many steps (LISA, arXiv 2403.17919). What trains at a step is a pure function of the schedule and the
/// step.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/freeze/plan.h"

namespace thaw {

/// From `first_step` on, `rules` hold behind those of the run and instead of those of the phases before.
struct PhaseRules {
  std::int64_t first_step = 0;  ///< at least 1: what comes before is the run's own rules
  LayerFreezePolicy rules;
};

/// Of `stack`, `blocks` blocks at a time train, for `every` steps; which ones depends on `seed` and the number of the
/// period alone. Outside the stack the run's rules hold.
struct RotatingBlocks {
  std::string stack;
  std::int64_t blocks = 1;
  std::int64_t every = 50;  ///< steps
  std::uint64_t seed = 1000;
};

class FreezeSchedule {
 public:
  /// "500: language=2; 1000: language=4,train:*embed*" (rules as in LayerFreezePolicy).
  /// @throws UsageError showing the phase and the grammar
  [[nodiscard]] static std::vector<PhaseRules> parse_phases(std::string_view text);
  /// "language,blocks=2,every=50". @throws UsageError as parse_phases
  [[nodiscard]] static RotatingBlocks parse_rotating(std::string_view text);

  /// LayerFreezePolicy::resolve on the model that trains.
  using Resolve = std::function<FreezePlan(const LayerFreezePolicy&)>;

  /// @throws UsageError for phases that do not begin one after the other, and as `resolve`
  FreezeSchedule(Resolve resolve, const LayerFreezePolicy& rules, const std::vector<PhaseRules>& phases);
  /// @throws UsageError for a stack that is not there, or more blocks than can learn
  FreezeSchedule(Resolve resolve, const LayerFreezePolicy& rules, const RotatingBlocks& rotating);

  /// What trains in some phase, trains; the boundary is the deepest of all phases, so that a prefix cached before it
  /// stays valid throughout. This is the plan of the run.
  [[nodiscard]] const FreezePlan& whole() const noexcept { return whole_; }

  /// Number of the phase that a step (from 0) belongs to.
  [[nodiscard]] std::int64_t phase_at(std::int64_t step) const;
  /// What trains in a phase. @throws UsageError for a negative number, or one behind the last phase
  [[nodiscard]] FreezePlan plan_of(std::int64_t phase) const;
  /// Blocks of the rotating stack that train in a phase, rising; empty for a schedule of phases.
  [[nodiscard]] std::vector<std::int64_t> blocks_of(std::int64_t phase) const;

 private:
  [[nodiscard]] LayerFreezePolicy rules_of(std::int64_t phase) const;

  Resolve resolve_;
  LayerFreezePolicy rules_;
  std::vector<PhaseRules> phases_;       ///< the first is the run's own
  RotatingBlocks rotating_;              ///< where the stack has a name
  std::vector<std::int64_t> learnable_;  ///< blocks of that stack
  FreezePlan whole_;
};

}  // namespace thaw
