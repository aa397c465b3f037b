/// Learning-rate schedules as a pure function of the step: nothing to save, nothing a skipped step could disturb.
/// Reference: LeRobot's CosineDecayWithWarmupSchedulerConfig (lerobot/optim/schedulers.py).
#pragma once

#include <cstdint>

#include "thaw/policy/policy.h"
#include "thaw/train/options.h"

namespace thaw {

class Schedule {
 public:
  /// `preset` fills what `options` leave open; `steps` is the length of the whole run.
  /// With auto_scale and steps < decay_steps D: warm-up W becomes trunc(W * steps / D) and D becomes steps.
  Schedule(const ScheduleOptions& options, const TrainingPreset& preset, double peak, std::int64_t steps);

  /// Factor on the peak rate of the optimizer step that is `step` steps from the start, from 0.
  /// s < W: 1/(W+1) at 0, rising linearly to 1 at W. cosine after that: a + (1 - a)/2 * (1 + cos(pi * min(s, D)/D))
  /// with a = decay rate / peak: counted from step 0, as LeRobot does, not from W. linear: from 1 at W to a at D.
  [[nodiscard]] double factor(std::int64_t step) const;

  [[nodiscard]] std::int64_t warmup_steps() const noexcept { return warmup_; }
  [[nodiscard]] std::int64_t decay_steps() const noexcept { return decay_; }

 private:
  ScheduleKind kind_;
  std::int64_t warmup_ = 0;
  std::int64_t decay_ = 0;
  double floor_ = 0.0;
};

}  // namespace thaw
