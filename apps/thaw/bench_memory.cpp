#include "bench_memory.h"

#include <fstream>
#include <string>

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

}  // namespace

PeakMemory::PeakMemory() : baseline_(status_bytes("VmRSS")) {}

void PeakMemory::mark() {
  loading_peak_ = status_bytes("VmHWM");
  std::ofstream("/proc/self/clear_refs") << "5";
}

Json PeakMemory::report() const {
  const std::int64_t peak = status_bytes("VmHWM");
  return Json{{"baseline_bytes", baseline_},
              {"loading_peak_bytes", loading_peak_},
              {"resident_bytes", status_bytes("VmRSS")},
              {"peak_bytes", peak},
              {"peak_above_baseline_bytes", peak - baseline_}};
}

}  // namespace thaw::cli
