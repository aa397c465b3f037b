#include <fstream>
#include <string>

#include "sweep_memory_impl.h"

namespace thaw {

void forget_peak_resident() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5\n";
}

std::optional<std::int64_t> peak_resident_bytes() {
  constexpr std::int64_t kKibibyte = 1024;
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    if (word != "VmHWM:") continue;
    std::int64_t kibibytes = 0;
    if (file >> kibibytes) return kibibytes * kKibibyte;
  }
  return std::nullopt;
}

}  // namespace thaw
