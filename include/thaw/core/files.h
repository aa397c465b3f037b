/// Reading files nobody vouches for and writing files nobody may find half-written.
///
/// Writing: everything goes to a temporary name beside the target, is fsynced, and is renamed into place; the folder is
/// fsynced after. A failure at any point leaves the old content and no new file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace thaw {

/// An open regular file, read at offsets (pread: no mapping that a truncation elsewhere could turn into SIGBUS).
class InputFile {
 public:
  /// @throws IoError when the path is missing, unreadable, or no regular file (directory, FIFO, device)
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(InputFile&&) noexcept;
  InputFile& operator=(InputFile&&) noexcept;

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// Fills `out` from `offset`. @throws IoError when the file ends before (it shrank, or the caller asked beyond
  /// size())
  void read_at(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::filesystem::path path_;
  std::uint64_t size_ = 0;
  int descriptor_ = -1;
};

/// The whole file as text. @throws IoError; FormatError when it is larger than `max_bytes`
[[nodiscard]] std::string read_text(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{64} << 20);

/// Replaces `path` by `content`, all or nothing. @throws IoError
void write_text_atomic(const std::filesystem::path& path, std::string_view content);

/// A file written piece by piece that appears only on commit(). The destructor removes what was not committed.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// fsync, rename, fsync of the folder. @throws IoError
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// A folder filled under a temporary name beside `target`, which appears as `target` only on commit().
/// `target` must not exist when it is committed. The destructor removes what was not committed.
class StagedDirectory {
 public:
  explicit StagedDirectory(std::filesystem::path target);
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return temporary_; }  ///< write here
  /// fsyncs the files and the folder, renames, fsyncs the parent. @throws IoError
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

/// Removes what AtomicFile and StagedDirectory of a killed process left in `directory` and returns how many there were.
/// Only for the holder of its DirectoryLock: it cannot tell a dead process' file from a living one's. @throws IoError
std::size_t remove_stale_temporaries(const std::filesystem::path& directory);

/// An exclusive lock on a folder, held while the object lives (flock on <folder>/.lock, released by the kernel when the
/// process dies). @throws IoError naming the process that holds it
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::filesystem::path& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int descriptor_ = -1;
};

/// Joins a relative path found in a file to `root`. @throws FormatError when it is empty or absolute, has "..", or
/// leaves `root` through a symbolic link. `where` names the file it was found in. In a Hugging Face cache, where a
/// snapshot is a folder of links to ../../blobs, the limit is the repository's folder (models--…, datasets--…).
[[nodiscard]] std::filesystem::path resolve_beneath(const std::filesystem::path& root, std::string_view relative,
                                                    const std::string& where);

/// Free bytes on the volume of `path` (or of its nearest existing parent).
[[nodiscard]] std::uint64_t free_bytes(const std::filesystem::path& path);

}  // namespace thaw
