// Collects step reports without reading them, so that the device is waited for once per window.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "thaw/train/observer.h"

namespace thaw {

class MetricsWindow {
 public:
  /// `data_wait`: the task's counter now.
  explicit MetricsWindow(double data_wait);
  void add(StepReport report) { reports_.push_back(std::move(report)); }
  [[nodiscard]] bool empty() const noexcept { return reports_.empty(); }
  /// Means since the last flush. Skipped steps are told to the user with the samples they used.
  [[nodiscard]] LogRecord flush(double data_wait, double epoch, std::int64_t samples_per_step,
                                std::int64_t skipped_steps);

 private:
  std::vector<StepReport> reports_;
  std::chrono::steady_clock::time_point begun_;
  double data_wait_;
};

}  // namespace thaw
