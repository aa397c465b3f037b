// What trains changes during a run: moments, frozen weights and resuming, bit for bit.
#include "thaw/freeze/freeze_schedule.h"

#include <torch/nn/module.h>

#include <set>

#include "thaw/core/error.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/trainer.h"
#include "thaw/train/verify.h"
#include "toy.h"

namespace thaw::freeze_schedule_test {
namespace {

using toy::Model;

std::shared_ptr<const FreezeSchedule> gradual(const Model& model) {
  return std::make_shared<FreezeSchedule>(
      [module = model.ptr()](const LayerFreezePolicy& rules) { return rules.resolve(*module); },
      LayerFreezePolicy::parse("blocks=1,train:head.*,freeze:embed.*"),
      FreezeSchedule::parse_phases("4: blocks=2; 9: blocks=0"));
}

std::shared_ptr<const FreezeSchedule> rotating(const Model& model) {
  return std::make_shared<FreezeSchedule>(
      [module = model.ptr()](const LayerFreezePolicy& rules) { return rules.resolve(*module); },
      LayerFreezePolicy::parse("train:head.*,freeze:embed.*"),
      RotatingBlocks{.stack = "blocks", .blocks = 1, .every = 3, .seed = 5});
}

using MakeSchedule = std::shared_ptr<const FreezeSchedule> (*)(const Model&);

TrainOptions options_of(std::int64_t steps, std::shared_ptr<const FreezeSchedule> schedule,
                        const std::filesystem::path& output = {}) {
  return {.steps = steps,
          .batch_size = 4,
          .precision = Precision::fp32,
          .device = at::Device(at::kCPU),
          .freeze_schedule = std::move(schedule),
          .optimizer = {.learning_rate = 1e-2, .weight_decay = 0.1},
          .schedule = {.warmup_steps = 2, .decay_steps = 12, .auto_scale = false},
          .output = output,
          .save_every = 0,
          .tensorboard = false,
          .quiet = true};
}

/// A run in which the model's weights are looked at after every step.
struct Watched {
  explicit Watched(MakeSchedule make)
      : schedule(make(model)), trainer(model.ptr(), schedule->whole(), options_of(12, schedule)) {}
  /// Names of the parameters that the next step changed.
  std::set<std::string> step() {
    const auto before = toy::copy_of(*model);
    static_cast<void>(trainer.step(*task));
    std::set<std::string> changed;
    for (const auto& [name, tensor] : toy::copy_of(*model)) {
      if (!bitwise_equal(tensor, before.at(name))) changed.insert(name);
    }
    return changed;
  }
  Model model;
  std::shared_ptr<const FreezeSchedule> schedule;
  Trainer trainer;
  std::unique_ptr<TrainTask> task = toy::task_for(model);
};

TEST(TrainingWithAFreezeSchedule, EveryStepChangesWhatItsPhaseTrainsAndNothingElse) {
  for (const MakeSchedule make : {gradual, rotating}) {
    Watched run(make);
    for (std::int64_t step = 0; step < 12; ++step) {
      const std::vector<std::string> planned =
          run.schedule->plan_of(run.schedule->phase_at(step)).names(ParameterClass::trainable);
      EXPECT_EQ(run.step(), std::set<std::string>(planned.begin(), planned.end())) << "step " << step;
    }
  }
}

TEST(TrainingWithAFreezeSchedule, MomentsOfANewBlockBeginAtZeroAndThoseOfAFrozenOneAreGivenUp) {
  const toy::Folder folder;
  const auto state_after = [&](std::int64_t steps) {
    Model model;
    const auto schedule = gradual(model);
    const auto output = folder.path() / std::to_string(steps);
    Trainer trainer(model.ptr(), schedule->whole(), options_of(steps, schedule, output));
    trainer.fit(*toy::task_for(model));
    return newest_checkpoint(output / "checkpoints")->optimizer;
  };
  const auto before = state_after(4);
  EXPECT_FALSE(before.contains("state/blocks.1.up.weight/exp_avg"));
  EXPECT_EQ(before.at("state/blocks.2.up.weight/step").item<float>(), 4.0F);
  const auto after = state_after(5);
  EXPECT_EQ(after.at("state/blocks.1.up.weight/step").item<float>(), 1.0F);
  EXPECT_EQ(after.at("state/blocks.2.up.weight/step").item<float>(), 5.0F);
  const auto at_the_end = state_after(10);
  EXPECT_FALSE(at_the_end.contains("state/blocks.2.up.weight/exp_avg"));
  EXPECT_EQ(at_the_end.at("state/head.weight/step").item<float>(), 10.0F);
}

TEST(TrainingWithAFreezeSchedule, ARunResumedBeforeAtAndAfterAChangeEqualsAnUninterruptedOneBitForBit) {
  for (const MakeSchedule make : {gradual, rotating}) {
    const toy::Folder folder;
    const auto run_to = [&](const std::filesystem::path& output, std::int64_t steps, bool resume) {
      Model model;
      const auto schedule = make(model);
      TrainOptions options = options_of(steps, schedule, output);
      options.resume = resume;
      Trainer trainer(model.ptr(), schedule->whole(), options);
      trainer.fit(*toy::task_for(model));
      return toy::copy_of(*model);
    };
    const auto expected = run_to(folder.path() / "whole", 12, false);
    for (const std::int64_t stop : {3, 4, 5, 9, 10}) {
      const auto output = folder.path() / std::to_string(stop);
      static_cast<void>(run_to(output, stop, false));
      const auto found = run_to(output, 12, true);
      for (const auto& [name, tensor] : expected)
        EXPECT_BITWISE_EQUAL(found.at(name), tensor) << name << " at " << stop;
    }
  }
}

TEST(TrainingWithAFreezeSchedule, VerifyPassesAtEveryStepAndFailsWhenMomentsOfARestingTensorAreKept) {
  for (const MakeSchedule make : {gradual, rotating}) {
    for (const std::int64_t steps : {2, 4, 5, 10}) {
      const toy::Folder folder;
      const auto run = folder.path() / "run";
      Model model;
      const auto schedule = make(model);
      Trainer trainer(model.ptr(), schedule->whole(), options_of(steps, schedule, run));
      trainer.fit(*toy::task_for(model));
      const VerifyReport report = verify_run(run, *Model().ptr());
      EXPECT_TRUE(report.passed()) << report.text();
      if (steps != 10) continue;
      Checkpoint forged = *newest_checkpoint(run / "checkpoints");
      ASSERT_FALSE(forged.state.resting.empty());
      forged.optimizer["state/" + forged.state.resting.front() + "/step"] = at::zeros({});
      std::filesystem::remove_all(run / "checkpoints");
      write_checkpoint(run / "checkpoints", forged);
      EXPECT_THAT(verify_run(run, *Model().ptr()).text(),
                  testing::HasSubstr("frozen for now, but the optimizer holds it"));
    }
  }
}

TEST(TrainingWithAFreezeSchedule, APlanThatIsNotTheSchedulesWholeIsRefused) {
  Model model;
  const auto schedule = gradual(model);
  EXPECT_THAT(
      toy::message_of<UsageError>([&] { Trainer trainer(model.ptr(), schedule->plan_of(0), options_of(2, schedule)); }),
      testing::HasSubstr("the plan of the run to be that of its freeze schedule, whole()"));
}

}  // namespace
}  // namespace thaw::freeze_schedule_test
