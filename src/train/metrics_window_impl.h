// Collects step reports without reading them, so that the device is waited for once per window.
#pragma once

#include <chrono>
#include <vector>

#include "thaw/train/observer.h"

namespace thaw {

class MetricsWindow {
 public:
  /// Begins to measure time. `data_wait`: the task's counter now.
  void restart(double data_wait);
  void add(StepReport report) { reports_.push_back(std::move(report)); }
  /// Time that is not training (saving, evaluating).
  void leave_out(double seconds) { left_out_ += seconds; }
  [[nodiscard]] bool empty() const noexcept { return reports_.empty(); }
  /// Means since the last flush; begins the next window. Skipped steps are told to the user with the samples they used.
  [[nodiscard]] LogRecord flush(double data_wait, std::int64_t samples_per_step);

 private:
  std::vector<StepReport> reports_;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  double left_out_ = 0.0;
  double data_wait_ = 0.0;
};

}  // namespace thaw
