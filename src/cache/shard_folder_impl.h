/// The shards of one identity: which files there are, how large, who may write, which goes when room is needed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "thaw/core/files.h"

namespace thaw::detail {

struct Shard {
  std::filesystem::path path;
  std::int64_t bytes = 0;
  std::int64_t live = 0;        ///< entries that are read from it
  std::uint64_t last_used = 0;  ///< 0: never
  bool complained = false;      ///< a warning named it
};

/// Not thread safe: its owner guards it.
class ShardFolder {
 public:
  /// Makes the folder and takes its lock; with it, temporary files of killed processes are removed. A lock that is
  /// taken is said, and the folder is then read only. @throws IoError when it cannot be made or listed
  explicit ShardFolder(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] bool writes() const noexcept { return lock_.has_value(); }
  /// By number: the oldest first.
  [[nodiscard]] const std::vector<std::shared_ptr<Shard>>& shards() const noexcept { return shards_; }
  [[nodiscard]] std::int64_t bytes() const;

  /// A name no shard has had while this object lives.
  [[nodiscard]] std::filesystem::path next_path();
  /// A file that was committed.
  std::shared_ptr<Shard> add(const std::filesystem::path& path, std::int64_t bytes);
  void use(Shard& shard) { shard.last_used = ++clock_; }

  /// Takes out of the list what must be deleted so that `more` bytes fit: first shards that nothing is read from, then
  /// the least recently used.
  [[nodiscard]] std::vector<std::shared_ptr<Shard>> make_room(std::int64_t more, std::int64_t budget);
  /// Takes a shard whose file is gone out of the list.
  void remove(const Shard& shard);

 private:
  void take_lock();
  void list();

  std::filesystem::path path_;
  std::optional<DirectoryLock> lock_;
  std::vector<std::shared_ptr<Shard>> shards_;
  std::uint64_t last_number_ = 0;
  std::uint64_t clock_ = 0;
};

}  // namespace thaw::detail
