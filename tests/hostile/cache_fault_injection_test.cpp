// Every I/O call of a run that fills a prefix cache is made to fail in every way, one at a time. No committed entry is
// lost, nothing wrong is given out, and the run itself goes on unless the folder could not be opened at all.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "cache/entries.h"
#include "core/temporary_folder.h"
#include "thaw/core/error.h"

extern "C" long fi_calls(void);  // fi_shim.c: how many calls were counted

namespace thaw::cache_fault_injection_test {
namespace {

namespace fs = std::filesystem;
using test::entry_of;
using test::identity;
using test::key_of;
using test::same;

enum class Mode { kill = 0, fail = 1, short_write = 2, interrupt = 3 };

constexpr std::int64_t kBefore = 4;  // entries of an earlier run
constexpr std::int64_t kAfter = 8;   // entries once this run has ended

/// Two entries a shard.
CacheOptions options_in(const fs::path& folder) {
  CacheOptions options = test::on_disk(folder);
  options.shard_bytes = 2 * entry_of(0).bytes();
  options.memory_bytes = 100 * entry_of(0).bytes();
  return options;
}

void fill(PrefixCache& cache, std::int64_t end) {
  for (std::int64_t frame = 0; frame < end; ++frame) {
    if (!cache.find(key_of(frame))) cache.store(key_of(frame), entry_of(frame));
  }
}

constexpr int kReported = 3;
constexpr int kWrong = 4;
constexpr int kCountAt = 1'000'000;  // a call that never comes

/// What a run does: opens, fills, ends. 0, or kReported when the folder could not be opened, or kWrong when an entry of
/// its own was lost to it.
int run(const fs::path& folder) {
  try {
    PrefixCache cache(identity(), options_in(folder));
    fill(cache, kAfter);
    cache.flush();
    for (std::int64_t frame = 0; frame < kAfter; ++frame) {
      if (!same(cache.find(key_of(frame)), entry_of(frame))) return kWrong;
    }
    return 0;
  } catch (const IoError&) {
    return kReported;
  } catch (...) {
    return kWrong;
  }
}

struct Outcome {
  bool killed = false;
  int code = 0;
};

Outcome run_with_fault(const fs::path& folder, int at, Mode mode) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("FI_AT", std::to_string(at).c_str(), 1);
    ::setenv("FI_MODE", std::to_string(static_cast<int>(mode)).c_str(), 1);
    ::setenv("FI_ON", "1", 1);
    ::testing::internal::CaptureStderr();  // its warnings
    const int code = run(folder);
    ::_exit(at == kCountAt ? static_cast<int>(fi_calls()) : code);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return {.killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
          .code = WIFEXITED(status) ? WEXITSTATUS(status) : 0};
}

/// A folder with the entries of an earlier run.
std::unique_ptr<test::TemporaryFolder> begun() {
  auto folder = std::make_unique<test::TemporaryFolder>(test::memory_folder());
  PrefixCache cache(identity(), options_in(folder->path()));
  fill(cache, kBefore);
  return folder;
}

std::string mode_name(const ::testing::TestParamInfo<Mode>& tested) {
  constexpr std::array kNames{"Killed", "Failing", "ShortWrite", "Interrupted"};
  return kNames[static_cast<std::size_t>(tested.param)];
}

class CacheFaultInjection : public ::testing::TestWithParam<Mode> {};

TEST_P(CacheFaultInjection, NoCommittedEntryIsLostAndNoWrongOneIsGivenOut) {
  const Mode mode = GetParam();
  const int calls = run_with_fault(begun()->path(), kCountAt, Mode::kill).code;
  ASSERT_GT(calls, 15) << "the shim counts nothing: it is not linked before libc";
  ASSERT_LT(calls, 250) << "more than an exit code can say";
  int killed = 0;
  for (int at = 1; at <= calls; ++at) {
    SCOPED_TRACE("call " + std::to_string(at));
    const auto folder = begun();
    const Outcome outcome = run_with_fault(folder->path(), at, mode);
    killed += outcome.killed ? 1 : 0;
    ASSERT_NE(outcome.code, kWrong) << "an entry was lost to the run that stored it, or it ended";
    ASSERT_NE(outcome.code, kReported) << "a folder that exists can be read, whatever fails";

    const std::string printed = test::printed_by([&] {
      PrefixCache cache(identity(), options_in(folder->path()));
      for (std::int64_t frame = 0; frame < kAfter; ++frame) {
        const auto found = cache.find(key_of(frame));
        ASSERT_TRUE(found || frame >= kBefore) << "a committed entry is lost: frame " << frame;
        ASSERT_TRUE(!found || same(found, entry_of(frame))) << "frame " << frame;
      }
      EXPECT_EQ(cache.statistics().damaged, 0) << "half a shard was left";
      for (const auto& file : fs::directory_iterator(cache.folder())) {
        const std::string name = file.path().filename().string();
        EXPECT_TRUE(name == ".lock" || name.starts_with("shard-")) << name << " was left";
      }
      fill(cache, kAfter);
      EXPECT_EQ(cache.statistics().entries, kAfter) << "the next run cannot go on";
    });
    EXPECT_EQ(printed, "") << "the next run found something odd";
  }
  EXPECT_EQ(killed, mode == Mode::kill ? calls : 0);
}

INSTANTIATE_TEST_SUITE_P(EveryCall, CacheFaultInjection,
                         ::testing::Values(Mode::kill, Mode::fail, Mode::short_write, Mode::interrupt), mode_name);

}  // namespace
}  // namespace thaw::cache_fault_injection_test
