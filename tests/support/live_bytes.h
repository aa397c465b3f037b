// Counts the memory of CPU tensors as they are allocated and freed on one thread.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>

namespace thaw::test {

/// Bytes of CPU tensors that this thread allocated and has not freed since it was made.
class LiveBytes : public c10::MemoryReportingInfoBase {
 public:
  [[nodiscard]] bool memoryProfilingEnabled() const override { return true; }
  void reportMemoryUsage(void* /*pointer*/, std::int64_t change, std::size_t /*allocated*/, std::size_t /*reserved*/,
                         c10::Device /*device*/) override {
    live_ += change;
    peak_ = std::max(peak_, live_);
  }
  [[nodiscard]] double live() const { return static_cast<double>(live_); }
  /// The most that was live at a time.
  [[nodiscard]] double peak() const { return static_cast<double>(peak_); }

 private:
  std::int64_t live_ = 0;
  std::int64_t peak_ = 0;
};

/// What `run` allocates on this thread.
inline std::shared_ptr<const LiveBytes> live_bytes_of(const std::function<void()>& run) {
  const auto meter = std::make_shared<LiveBytes>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  run();
  return meter;
}

}  // namespace thaw::test
