#include "thaw/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace thaw {
namespace {

double warmup_factor(std::int64_t step, std::int64_t warmup) {
  const double first = 1.0 / static_cast<double>(warmup + 1);
  if (step <= 0) return first;
  const double missing = 1.0 - static_cast<double>(step) / static_cast<double>(warmup);
  return (first - 1.0) * missing + 1.0;
}

double cosine_factor(std::int64_t step, std::int64_t decay, double floor) {
  const double progress = static_cast<double>(std::min(step, decay)) / static_cast<double>(decay);
  return (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)) + floor;
}

double linear_factor(std::int64_t step, std::int64_t warmup, std::int64_t decay, double floor) {
  if (decay <= warmup) return floor;
  const double progress = static_cast<double>(std::min(step, decay) - warmup) / static_cast<double>(decay - warmup);
  return 1.0 + (floor - 1.0) * progress;
}

}  // namespace

Schedule::Schedule(const ScheduleOptions& options, const TrainingPreset& preset, double peak, std::int64_t steps)
    : kind_(options.kind),
      warmup_(options.warmup_steps.value_or(preset.warmup_steps)),
      decay_(options.decay_steps.value_or(preset.decay_steps)),
      floor_(options.decay_learning_rate.value_or(preset.decay_learning_rate) / peak) {
  if (!options.auto_scale || steps >= decay_) return;
  // The quotient first, as the reference has it: trunc() of another order can differ by one step.
  const double scale = static_cast<double>(steps) / static_cast<double>(decay_);
  warmup_ = static_cast<std::int64_t>(static_cast<double>(warmup_) * scale);
  decay_ = steps;
}

double Schedule::factor(std::int64_t step) const {
  if (step < warmup_) return warmup_factor(step, warmup_);
  switch (kind_) {
    case ScheduleKind::constant:
      return 1.0;
    case ScheduleKind::linear:
      return linear_factor(step, warmup_, decay_, floor_);
    case ScheduleKind::cosine:
      break;
  }
  return cosine_factor(step, decay_, floor_);
}

}  // namespace thaw
