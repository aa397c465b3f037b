/// A file without a disk, for tests that need thousands of contents: the kernel takes its path as that of a regular
/// file.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace thaw::test {

class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("thaw-test", MFD_CLOEXEC)) {
    if (descriptor_ < 0) throw std::runtime_error("memfd_create failed");
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  /// Replaces the content and returns the path.
  std::filesystem::path write(std::string_view content) const {
    const bool written = ::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, content.data(), content.size(), 0) ==
                                                                 static_cast<ssize_t>(content.size());
    if (!written) throw std::runtime_error("a file in memory cannot be written");
    return "/proc/self/fd/" + std::to_string(descriptor_);
  }

 private:
  int descriptor_;
};

}  // namespace thaw::test
