#include "thaw/train/signals.h"

#include <csignal>

#include "thaw/train/checkpoint.h"
#include "thaw/train/trainer.h"
#include "toy.h"

namespace thaw::signals_test {
namespace {

using toy::Model;
using toy::Pair;

/// A run whose third micro-batch raises `signal`.
FitResult run_with(int signal, const std::filesystem::path& output) {
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block),
                  {.steps = 1000,
                   .batch_size = 4,
                   .precision = Precision::fp32,
                   .device = at::Device(at::kCPU),
                   .output = output,
                   .save_every = 0,
                   .tensorboard = false,
                   .quiet = true});
  const auto task = make_task<Pair>(
      [signal](std::int64_t number) {
        if (number == 2) std::raise(signal);
        return toy::pair(number);
      },
      [model](const Pair& p) mutable { return at::mse_loss(model->forward(p.x), p.y); });
  return trainer.fit(*task);
}

TEST(Signals, InterruptFinishesTheStepAndSaves) {
  const toy::Folder folder;
  const FitResult result = run_with(SIGINT, folder.path() / "run");
  EXPECT_EQ(result.step, 3);
  EXPECT_EQ(result.stopped_by, StopReason::interrupted);
  EXPECT_EQ(result.exit_code(), ExitCode::interrupted);
  EXPECT_TRUE(checkpoint_faults(result.checkpoint).empty());
  EXPECT_EQ(result.checkpoint.filename(), "000003");
}

TEST(Signals, TerminationIsToldFromInterrupt) {
  const toy::Folder folder;
  EXPECT_EQ(run_with(SIGTERM, folder.path() / "run").exit_code(), ExitCode::terminated);
}

TEST(Signals, SecondSignalEndsTheProcessAtOnce) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const SignalScope scope;
        std::raise(SIGTERM);
        std::raise(SIGINT);
      },
      testing::ExitedWithCode(130), "");
}

TEST(Signals, HandlersAreBackAfterTheScopeAndTheRequestIsForgotten) {
  struct sigaction before {};
  struct sigaction after {};
  ::sigaction(SIGINT, nullptr, &before);
  {
    const SignalScope outer;
    const SignalScope inner;
    std::raise(SIGINT);
    EXPECT_EQ(stop_signal(), SIGINT);
  }
  ::sigaction(SIGINT, nullptr, &after);
  EXPECT_EQ(after.sa_handler, before.sa_handler);
  const SignalScope again;
  EXPECT_EQ(stop_signal(), 0);
}

}  // namespace
}  // namespace thaw::signals_test
