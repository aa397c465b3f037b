#include "thaw/core/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <random>
#include <system_error>
#include <utility>

#include "printable_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryPrefix = ".thaw-tmp-";

std::string advice(int code) {
  switch (code) {
    case ENOSPC:
    case EDQUOT:
      return "The disk or quota is full: free some space, or choose another output folder.";
    case EACCES:
    case EPERM:
      return "Check the permissions of the path and of its folder.";
    case EROFS:
      return "The volume is mounted read-only: choose another output folder.";
    case EMFILE:
    case ENFILE:
      return "Too many files are open: raise `ulimit -n`.";
    case EIO:
      return "The disk or network volume reported a fault.";
    default:
      return "";
  }
}

[[noreturn]] void fail(const fs::path& path, std::string_view doing, int code) {
  throw IoError(Problem{.where = fmt::format("{}: {}: {}", path.string(), doing, std::generic_category().message(code)),
                        .fix = advice(code)});
}

int check(int result, const fs::path& path, std::string_view doing) {
  if (result < 0) fail(path, doing, errno);
  return result;
}

/// Owns a descriptor; close() reports what the destructor cannot.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return number_; }
  [[nodiscard]] int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

int open_retrying(const fs::path& path, int flags, mode_t mode = 0) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

void sync(int descriptor, const fs::path& path) {
  int result = 0;
  do {
    result = ::fsync(descriptor);
  } while (result < 0 && errno == EINTR);
  check(result, path, "cannot flush to disk");
}

// A failed close may be the only report of a failed write (NFS). The descriptor is gone in any case.
void close_checked(int descriptor, const fs::path& path) {
  if (::close(descriptor) < 0 && errno != EINTR) fail(path, "cannot close", errno);
}

void sync_path(const fs::path& path, int flags) {
  Descriptor descriptor(check(open_retrying(path, O_RDONLY | flags), path, "cannot open to flush it"));
  sync(descriptor.get(), path);
  close_checked(descriptor.release(), path);
}

void sync_directory(const fs::path& path) { sync_path(path, O_DIRECTORY); }

fs::path folder_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

// A trailing slash would make "beside" mean "inside".
fs::path without_trailing_slash(fs::path path) { return path.has_filename() ? std::move(path) : path.parent_path(); }

// Short whatever the target's name is, never guessable by chance, and recognisable for remove_stale_temporaries().
fs::path temporary_beside(const fs::path& target) {
  static std::atomic<unsigned> counter{0};
  std::random_device device;
  const std::string name = fmt::format("{}{}-{}-{:08x}", kTemporaryPrefix, ::getpid(), counter.fetch_add(1), device());
  return folder_of(target) / name;
}

void write_all(int descriptor, std::span<const std::byte> bytes, const fs::path& path) {
  constexpr std::size_t kMostAtOnce = std::size_t{1} << 30;  // Linux writes at most 2 GiB − 4 KiB a call
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), std::min(bytes.size(), kMostAtOnce));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path, "cannot write", errno);
    if (written == 0) fail(path, "cannot write", EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

// renameat2 refuses to replace what appeared meanwhile; file systems without it (some FUSE, NFS) get the check alone.
void rename_to_new(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  const bool unsupported = errno == EINVAL || errno == ENOSYS;
  if (!unsupported && errno != EEXIST) fail(to, "cannot rename into place", errno);
  if (!unsupported || fs::exists(fs::symlink_status(to))) {
    throw IoError(Problem{.where = to.string(),
                          .expected = "no such folder yet",
                          .found = "one that exists",
                          .fix = "Choose another name or remove it."});
  }
  check(::rename(from.c_str(), to.c_str()), to, "cannot rename into place");
}

void remove_quietly(const fs::path& path) noexcept {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

fs::path absolute_canonical(const fs::path& path, const std::string& where) {
  std::error_code error;
  fs::path resolved = fs::weakly_canonical(fs::absolute(path), error);
  if (error) {
    throw FormatError(Problem{.where = where,
                              .expected = "a path that can be followed",
                              .found = fmt::format("'{}' ({})", path.string(), error.message())});
  }
  return resolved;
}

bool is_beneath(const fs::path& path, const fs::path& root) {
  const auto [root_end, rest] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return root_end == root.end();
}

// The Hugging Face cache keeps files in <repository>/blobs and links to them from <repository>/snapshots/<revision>.
fs::path containment_root(const fs::path& root) {
  const fs::path snapshots = root.parent_path();
  const std::string repository = snapshots.parent_path().filename().string();
  const bool cache = snapshots.filename() == "snapshots" &&
                     (repository.starts_with("models--") || repository.starts_with("datasets--"));
  return cache ? snapshots.parent_path() : root;
}

}  // namespace

// ---- reading ----

InputFile::InputFile(fs::path path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a FIFO nobody writes to would otherwise wait for ever.
  Descriptor descriptor(check(open_retrying(path_, O_RDONLY | O_NONBLOCK), path_, "cannot open"));
  struct stat status {};
  check(::fstat(descriptor.get(), &status), path_, "cannot stat");
  if (!S_ISREG(status.st_mode)) {
    const char* what = S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket";
    throw IoError(Problem{.where = path_.string(), .expected = "a regular file", .found = what});
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
  descriptor_ = descriptor.release();
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), size_(other.size_), descriptor_(std::exchange(other.descriptor_, -1)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(size_, other.size_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

void InputFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  constexpr std::size_t kMostAtOnce = std::size_t{1} << 30;
  if (offset > size_ || out.size() > size_ - offset) {
    throw IoError(Problem{.where = path_.string(),
                          .expected = fmt::format("{} bytes at offset {}", out.size(), offset),
                          .found = fmt::format("a file of {} bytes", size_)});
  }
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), std::min(out.size(), kMostAtOnce), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path_, "cannot read", errno);
    if (got == 0) {
      throw IoError(Problem{.where = path_.string(),
                            .expected = fmt::format("{} bytes, as when it was opened", size_),
                            .found = fmt::format("its end at {}", offset),
                            .fix = "Something truncated the file while it was read."});
    }
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

std::string read_text(const fs::path& path, std::size_t max_bytes) {
  const InputFile file(path);
  if (file.size() > max_bytes) {
    throw FormatError(Problem{.where = path.string(),
                              .expected = fmt::format("at most {} bytes", max_bytes),
                              .found = fmt::format("{} bytes", file.size())});
  }
  std::string text(file.size(), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// ---- writing ----

void write_text_atomic(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

AtomicFile::AtomicFile(fs::path target) : target_(std::move(target)), temporary_(temporary_beside(target_)) {
  constexpr mode_t kReadWrite = 0666;  // less the umask, as for any new file
  descriptor_ = check(open_retrying(temporary_, O_WRONLY | O_CREAT | O_EXCL, kReadWrite), target_,
                      "cannot create a file in its folder");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) { write_all(descriptor_, bytes, target_); }

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  sync(descriptor_, target_);
  close_checked(std::exchange(descriptor_, -1), target_);
  check(::rename(temporary_.c_str(), target_.c_str()), target_, "cannot rename into place");
  temporary_.clear();
  sync_directory(folder_of(target_));
}

StagedDirectory::StagedDirectory(fs::path target)
    : target_(without_trailing_slash(std::move(target))), temporary_(temporary_beside(target_)) {
  constexpr mode_t kAll = 0777;  // less the umask
  check(::mkdir(temporary_.c_str(), kAll), target_, "cannot create a folder beside it");
}

StagedDirectory::~StagedDirectory() {
  if (!committed_) remove_quietly(temporary_);
}

void StagedDirectory::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(temporary_)) {
    if (entry.is_symlink()) continue;
    if (entry.is_directory()) sync_directory(entry.path());
    if (entry.is_regular_file()) sync_path(entry.path(), 0);
  }
  sync_directory(temporary_);
  rename_to_new(temporary_, target_);
  committed_ = true;
  sync_directory(folder_of(target_));
}

std::size_t remove_stale_temporaries(const fs::path& directory) {
  std::vector<fs::path> stale;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().filename().string().starts_with(kTemporaryPrefix)) stale.push_back(entry->path());
  }
  if (error) fail(directory, "cannot list", error.value());
  for (const fs::path& path : stale) {
    fs::remove_all(path, error);
    if (error) fail(path, "cannot remove", error.value());
  }
  return stale.size();
}

// ---- locks and paths ----

namespace {

std::string holder_of(int descriptor) {
  std::array<char, 128> text{};
  const ssize_t got = ::pread(descriptor, text.data(), text.size(), 0);
  std::string holder(text.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  holder.resize(std::min(holder.size(), holder.find('\n')));
  return holder.empty() ? "another process" : holder;
}

std::string this_process() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) return fmt::format("process {}", ::getpid());
  return fmt::format("process {} on {}", ::getpid(), host.data());
}

}  // namespace

DirectoryLock::DirectoryLock(const fs::path& directory) {
  constexpr mode_t kReadWrite = 0666;
  const fs::path path = directory / ".lock";
  Descriptor descriptor(check(open_retrying(path, O_RDWR | O_CREAT, kReadWrite), path, "cannot open the lock"));
  int result = 0;
  do {
    result = ::flock(descriptor.get(), LOCK_EX | LOCK_NB);
  } while (result < 0 && errno == EINTR);
  if (result < 0 && errno == EWOULDBLOCK) {
    throw IoError(Problem{.where = directory.string(),
                          .expected = "a folder nobody else writes to",
                          .found = "a lock held by " + holder_of(descriptor.get()),
                          .fix = "Wait for it to end, or choose another folder."});
  }
  check(result, path, "cannot lock");
  check(::ftruncate(descriptor.get(), 0), path, "cannot write the lock");
  const std::string holder = this_process() + "\n";
  write_all(descriptor.get(), std::as_bytes(std::span(holder)), path);
  descriptor_ = descriptor.release();
}

// The file stays: removing it would let two processes lock two files of one name.
DirectoryLock::~DirectoryLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

fs::path resolve_beneath(const fs::path& root, std::string_view relative, const std::string& where) {
  const auto refuse = [&](std::string found) {
    throw FormatError(Problem{.where = where,
                              .expected = "a relative path that stays in its folder",
                              .found = fmt::format("'{}' ({})", detail::printable(relative), found)});
  };
  const fs::path path(relative);
  if (relative.empty()) refuse("empty");
  if (relative.find('\0') != std::string_view::npos) refuse("it has a zero byte");
  if (path.is_absolute()) refuse("absolute");
  if (std::find(path.begin(), path.end(), "..") != path.end()) refuse("it has \"..\"");

  fs::path joined = (root / path).lexically_normal();
  const fs::path limit = absolute_canonical(containment_root(fs::absolute(without_trailing_slash(root))), where);
  const fs::path resolved = absolute_canonical(joined, where);
  if (!is_beneath(resolved, limit)) refuse("a symbolic link leads to " + resolved.string());
  return joined;
}

std::uint64_t free_bytes(const fs::path& path) {
  std::error_code error;
  fs::path existing = fs::absolute(path);
  while (!fs::exists(existing, error) && existing != existing.parent_path()) existing = existing.parent_path();
  const fs::space_info space = fs::space(existing, error);
  if (error) fail(existing, "cannot ask for its free space", error.value());
  return space.available;
}

}  // namespace thaw
