// Peak resident memory of this process, from /proc (Linux; zeros elsewhere).
#pragma once

#include <cstdint>
#include <functional>

#include "thaw/core/json.h"

namespace thaw::cli {

/// Peak since mark(), and above what the process held when this object was made.
class PeakMemory {
 public:
  PeakMemory();
  /// Forgets the peak so far (loading, filling a cache), where the system lets a process do that (proc(5), clear_refs).
  void mark();
  /// Runs `work` without counting what it takes, and gives back to the system what it freed.
  void leave_out(const std::function<void()>& work);
  /// {"baseline_bytes", "loading_peak_bytes", "resident_bytes", "peak_bytes", "peak_above_baseline_bytes"}
  [[nodiscard]] Json report() const;

 private:
  std::int64_t baseline_;
  std::int64_t loading_peak_ = 0;
  std::int64_t peak_ = 0;  ///< before what was left out
};

}  // namespace thaw::cli
