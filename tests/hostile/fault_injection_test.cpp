// Every I/O call of a save is made to fail in every way, one at a time. What was there before survives, or what is new
// is complete: nothing between, and nothing left over where the process lived to clean up.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "core/temporary_folder.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

extern "C" long fi_calls(void);  // fi_shim.c: how many calls were counted

namespace thaw::fault_injection_test {
namespace {

namespace fs = std::filesystem;

enum class Mode { kill = 0, fail = 1, short_write = 2, interrupt = 3 };

at::Tensor old_weights() { return at::zeros({1000}); }
at::Tensor new_weights() { return at::ones({2000}); }

void save_file(const fs::path& path, const at::Tensor& weights) {
  write_safetensors(path, std::vector<NamedTensor>{{"weights", weights}, {"bias", weights.slice(0, 0, 3)}});
}

void save_folder(const fs::path& path, const at::Tensor& weights) {
  StagedDirectory staged(path);
  save_file(staged.path() / "head.safetensors", weights);
  write_text_atomic(staged.path() / "MANIFEST.json", "{\"files\": 1}\n");
  staged.commit();
}

// What a run does at a checkpoint: replaces one file and adds a folder beside an old one.
void save_checkpoint(const fs::path& root) {
  save_file(root / "last.safetensors", new_weights());
  save_folder(root / "step-20", new_weights());
}

bool holds(const fs::path& file, const at::Tensor& weights) {
  const auto tensors = read_safetensors(file);
  return tensors.size() == 2 && bitwise_equal(tensors.at("weights"), weights) &&
         bitwise_equal(tensors.at("bias"), weights.slice(0, 0, 3));
}

bool folder_holds(const fs::path& folder, const at::Tensor& weights) {
  return holds(folder / "head.safetensors", weights) && read_text(folder / "MANIFEST.json") == "{\"files\": 1}\n";
}

struct Outcome {
  bool killed = false;
  bool reported = false;  // an IoError was thrown
};

constexpr int kReported = 3;
constexpr int kOtherError = 4;

/// Saves in a child whose `at`-th call is hit.
Outcome save_with_fault(const fs::path& root, int at, Mode mode) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("FI_AT", std::to_string(at).c_str(), 1);
    ::setenv("FI_MODE", std::to_string(static_cast<int>(mode)).c_str(), 1);
    ::setenv("FI_ON", "1", 1);
    try {
      save_checkpoint(root);
    } catch (const IoError&) {
      ::_exit(kReported);
    } catch (...) {
      ::_exit(kOtherError);
    }
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) != kOtherError) << "an exception that is no IoError";
  return {.killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
          .reported = WIFEXITED(status) && WEXITSTATUS(status) == kReported};
}

/// The number of calls a save makes. The first one of a process is not like the others: LibTorch opens files of its
/// own.
int count_calls() {
  const test::TemporaryFolder warm_up(test::memory_folder());
  save_checkpoint(warm_up.path());
  const test::TemporaryFolder folder(test::memory_folder());
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("FI_ON", "1", 1);
    save_checkpoint(folder.path());
    ::_exit(static_cast<int>(fi_calls()));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

std::string mode_name(const ::testing::TestParamInfo<Mode>& tested) {
  constexpr std::array kNames{"Killed", "Failing", "ShortWrite", "Interrupted"};
  return kNames[static_cast<std::size_t>(tested.param)];
}

class FaultInjection : public ::testing::TestWithParam<Mode> {};

TEST_P(FaultInjection, OldContentIsIntactOrNewContentIsComplete) {
  const Mode mode = GetParam();
  const int calls = count_calls();
  ASSERT_GT(calls, 20) << "the shim counts nothing: it is not linked before libc";
  int killed = 0;
  int reported = 0;
  for (int at = 1; at <= calls; ++at) {
    SCOPED_TRACE("call " + std::to_string(at));
    const test::TemporaryFolder folder(test::memory_folder());
    save_file(folder / "last.safetensors", old_weights());
    save_folder(folder / "step-10", old_weights());

    const Outcome outcome = save_with_fault(folder.path(), at, mode);
    killed += outcome.killed ? 1 : 0;
    reported += outcome.reported ? 1 : 0;

    const bool has_new = holds(folder / "last.safetensors", new_weights());
    ASSERT_TRUE(has_new || holds(folder / "last.safetensors", old_weights()));
    ASSERT_TRUE(folder_holds(folder / "step-10", old_weights()));
    const bool has_folder = fs::exists(folder / "step-20");
    ASSERT_TRUE(!has_folder || folder_holds(folder / "step-20", new_weights()));

    const bool success = !outcome.killed && !outcome.reported;
    ASSERT_TRUE(!success || (has_new && has_folder)) << "success was claimed";
    if (outcome.killed) static_cast<void>(remove_stale_temporaries(folder.path()));
    const auto left = folder.names();
    EXPECT_EQ(left.size(), has_folder ? 3U : 2U) << fmt::format("{}", fmt::join(left, ", "));
  }
  switch (mode) {
    case Mode::kill:
      EXPECT_EQ(killed, calls);
      break;
    case Mode::fail:
      EXPECT_EQ(reported, calls) << "a call whose failure nobody noticed";
      break;
    case Mode::short_write:
      EXPECT_GT(reported, 0);
      EXPECT_LT(reported, calls) << "a short write is no failure";
      break;
    case Mode::interrupt:
      EXPECT_GT(calls - reported, calls / 2) << "an interrupted call is tried again";
      break;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryCall, FaultInjection,
                         ::testing::Values(Mode::kill, Mode::fail, Mode::short_write, Mode::interrupt), mode_name);

}  // namespace
}  // namespace thaw::fault_injection_test
