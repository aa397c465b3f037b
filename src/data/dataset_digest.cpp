#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "dataset_digest_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/sha256.h"

namespace thaw::lerobot {
namespace {

namespace fs = std::filesystem;

using Files = std::map<std::string, fs::path>;  // name in the dataset -> where it is

[[noreturn]] void refuse(const fs::path& path, const std::error_code& error) {
  throw IoError(Problem{.where = path.string(), .expected = "a readable file", .found = error.message()});
}

/// Hidden ones are other programs' (a lock, an editor's copy).
Files files_of_meta(const fs::path& root) {
  const fs::path meta = root / "meta";
  Files files;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(meta, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().filename().string().starts_with('.')) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file(error)) {
      files[entry->path().lexically_relative(root).generic_string()] = entry->path();
    }
  }
  if (error) refuse(meta, error);
  return files;
}

Files files_of_frames(const Tables& tables) {
  Files files;
  for (const DataFile& file : tables.frames.files) files[file.label] = file.path;
  for (const auto& [name, camera] : tables.cameras) {
    for (const CameraFile& file : camera->files()) files[file.label] = file.path;
  }
  return files;
}

/// Size and modification time: hashing the pictures would cost as much as reading them all.
std::string state_of(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) refuse(path, error);
  const fs::file_time_type time = fs::last_write_time(path, error);
  if (error) refuse(path, error);
  const auto since = std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch());
  return fmt::format("{} {}", size, since.count());
}

}  // namespace

std::string dataset_digest(const Tables& tables) {
  Sha256 digest;
  const auto add = [&digest](const std::string& name, const std::string& state) {
    digest.update(fmt::format("{}:{} {}\n", name.size(), name, state));  // no name can pass for another's state
  };
  for (const auto& [name, path] : files_of_meta(tables.root)) add(name, sha256_file(path));
  for (const auto& [name, path] : files_of_frames(tables)) add(name, state_of(path));
  return digest.hex();
}

}  // namespace thaw::lerobot
