#include "bench_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "thaw/tensor/heap.h"

namespace thaw::cli {
namespace {

/// A field of /proc/self/status in bytes; 0 where there is none.
std::int64_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return 1024 * std::stoll(line.substr(field.size() + 1));
  }
  return 0;
}

/// Sets the system's own peak back to what is held now.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace

PeakMemory::PeakMemory() : baseline_(status_bytes("VmRSS")) {}

void PeakMemory::mark() {
  loading_peak_ = status_bytes("VmHWM");
  peak_ = 0;
  forget_peak();
}

void PeakMemory::leave_out(const std::function<void()>& work) {
  peak_ = std::max(peak_, status_bytes("VmHWM"));
  work();
  release_free_memory();
  forget_peak();
}

Json PeakMemory::report() const {
  const std::int64_t peak = std::max(peak_, status_bytes("VmHWM"));
  return Json{{"baseline_bytes", baseline_},
              {"loading_peak_bytes", loading_peak_},
              {"resident_bytes", status_bytes("VmRSS")},
              {"peak_bytes", peak},
              {"peak_above_baseline_bytes", peak - baseline_}};
}

}  // namespace thaw::cli
