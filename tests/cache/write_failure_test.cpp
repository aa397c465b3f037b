// Disks that are full and processes that are killed. Each happens in a child process.
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <functional>

#include "cache/entries.h"
#include "core/temporary_folder.h"

namespace thaw::write_failure_test {
namespace {

namespace fs = std::filesystem;
using test::entry_of;
using test::identity;
using test::key_of;
using test::on_disk;
using test::same;
using test::TemporaryFolder;
using ::testing::ElementsAre;

/// Of what `action` gives back in a child: the first thing that was not so; "" when all was well.
std::string in_child(const std::function<std::string()>& action) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) return "no pipe";
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string said = action();
    const bool sent = ::write(ends[1], said.data(), said.size()) == static_cast<ssize_t>(said.size());
    ::_exit(sent ? 0 : 1);
  }
  ::close(ends[1]);
  std::array<char, 4096> text{};
  const ssize_t got = ::read(ends[0], text.data(), text.size());
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return "the child ended with status " + std::to_string(status);
  return {text.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
}

/// No file of this process may grow beyond `bytes`: as a disk that is full, write() fails part of the way.
void limit_files(rlim_t bytes) {
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = std::min(bytes, limit.rlim_max);
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& file : fs::directory_iterator(folder)) names.push_back(file.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(FullDisk, IsSaidOnceAndEntriesStayInMemoryWithinTheBudget) {
  const TemporaryFolder folder;
  const std::string wrong = in_child([&]() -> std::string {
    CacheOptions options = on_disk(folder.path());
    options.memory_bytes = 3 * entry_of(0).bytes();
    PrefixCache cache(identity(), options);
    limit_files(500);
    const std::string printed = test::printed_by([&] {
      for (std::int64_t frame = 0; frame < 5; ++frame) cache.store(key_of(frame), entry_of(frame));
    });
    if (test::warnings_in(printed) != 1) return "not one warning: " + printed;
    if (printed.find("a shard could not be written") == std::string::npos) return "another warning: " + printed;
    for (std::int64_t frame = 0; frame < 5; ++frame) {
      if (cache.contains(key_of(frame)) != (frame >= 2)) return "the budget keeps others than the last three";
    }
    if (!same(cache.find(key_of(4)), entry_of(4))) return "an entry in memory is not found";
    const CacheStatistics statistics = cache.statistics();
    if (statistics.shards != 0 || statistics.disk_bytes != 0) return "a shard that was not written is counted";
    if (statistics.evicted != 2) return "entries that were given up are not counted";
    if (files_in(cache.folder()) != std::vector<std::string>{".lock"}) return "something is left of a failed write";
    return "";
  });
  EXPECT_EQ(wrong, "");
}

TEST(FullDisk, IsTriedAgainForLaterShards) {
  const TemporaryFolder folder;
  const std::string wrong = in_child([&]() -> std::string {
    ::testing::internal::CaptureStderr();
    PrefixCache cache(identity(), on_disk(folder.path()));
    limit_files(500);
    cache.store(key_of(0), entry_of(0));
    if (cache.contains(key_of(0))) return "an entry is known that is nowhere";
    limit_files(RLIM_INFINITY);
    cache.store(key_of(0), entry_of(0));
    return same(cache.find(key_of(0)), entry_of(0)) ? "" : "the next shard was not written";
  });
  EXPECT_EQ(wrong, "");
  PrefixCache cache(identity(), on_disk(folder.path()));
  EXPECT_TRUE(same(cache.find(key_of(0)), entry_of(0)));
}

TEST(FullDisk, AtTheEndOfARunEndsInAWarning) {
  const TemporaryFolder folder;
  const std::string wrong = in_child([&]() -> std::string {
    CacheOptions options = on_disk(folder.path());
    options.shard_bytes = 1 << 20;
    const std::string printed = test::printed_by([&] {
      PrefixCache cache(identity(), options);
      cache.store(key_of(0), entry_of(0));
      limit_files(500);
    });
    return test::warnings_in(printed) == 1 ? "" : "not one warning: " + printed;
  });
  EXPECT_EQ(wrong, "");
}

TEST(KilledWriter, LeavesItsCommittedShardsWholeAndNoHalfOne) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    CacheOptions options = on_disk(folder.path());
    options.shard_bytes = 1 << 20;
    PrefixCache cache(identity(), options);
    for (std::int64_t frame = 0; frame < 3; ++frame) cache.store(key_of(frame), entry_of(frame));
    cache.flush();
    cache.store(key_of(3), entry_of(3));
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));

  PrefixCache cache(identity(), on_disk(folder.path()));
  EXPECT_TRUE(cache.writes()) << "the lock of a dead process holds";
  for (std::int64_t frame = 0; frame < 3; ++frame) EXPECT_TRUE(same(cache.find(key_of(frame)), entry_of(frame)));
  EXPECT_FALSE(cache.contains(key_of(3)));
  EXPECT_THAT(files_in(cache.folder()), ElementsAre(".lock", "shard-000001.safetensors"));
}

}  // namespace
}  // namespace thaw::write_failure_test
