/// Skips steps whose loss or gradient is not finite, and stops training that produces nothing else.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace thaw {

class GradientGuard {
 public:
  GradientGuard(std::int64_t max_consecutive, at::Device device);

  /// () float32: 1 when `loss`, `norm` or `found_inf` (may be undefined) says that the step must be skipped. Counts it.
  [[nodiscard]] at::Tensor judge(const at::Tensor& loss, const at::Tensor& norm, const at::Tensor& found_inf);

  /// Reads the counters: at once on a CPU; on an accelerator only every tenth step, so that nobody waits.
  /// @throws CheckFailed naming the step when max_consecutive steps in a row were skipped
  void check(std::int64_t step);

  struct Counters {
    std::int64_t skipped = 0;      ///< steps skipped since the start of the run
    std::int64_t consecutive = 0;  ///< in a row, up to now
    std::int64_t longest = 0;      ///< longest such row
  };
  [[nodiscard]] Counters counters() const;
  void load(const Counters& counters);

 private:
  std::int64_t max_consecutive_;
  at::Tensor counters_;  ///< (3) float64 on the device: skipped, consecutive, longest
};

}  // namespace thaw
