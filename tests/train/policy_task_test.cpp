// A policy on a real dataset: splitting, statistics, the gradient boundary, evaluation, and resuming.
#include "thaw/train/policy_task.h"

#include "fake_policy.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/data/statistics.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/head.h"
#include "thaw/train/trainer.h"
#include "thaw/train/verify.h"
#include "toy.h"

namespace thaw::policy_task_test {
namespace {

using toy::FakePolicy;

LeRobotDataset open_dataset(const char* name = "v30_png") {
  return LeRobotDataset::open(std::filesystem::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny" / name);
}

TrainOptions options_with(std::int64_t steps, const std::filesystem::path& output = {}) {
  return {.steps = steps,
          .batch_size = 4,
          .workers = 0,
          .precision = Precision::fp32,
          .device = at::Device(at::kCPU),
          .output = output,
          .save_every = 0,
          .tensorboard = false,
          .quiet = true,
          .eval_episodes = {1},
          .eval_samples = 8};
}

struct Recorder : TrainObserver {
  void on_step(const StepReport& report) override {
    losses.push_back(report.loss());
    samples.insert(samples.end(), report.samples.begin(), report.samples.end());
  }
  void on_evaluation(std::int64_t /*step*/, const EvaluationResult& result) override { evaluations.push_back(result); }
  std::vector<double> losses;
  std::vector<std::int64_t> samples;
  std::vector<EvaluationResult> evaluations;
};

std::shared_ptr<Recorder> train(const std::shared_ptr<FakePolicy>& policy, const std::string& rules,
                                const TrainOptions& options, const char* dataset = "v30_png") {
  Trainer trainer(policy, policy->plan(rules), options);
  const auto recorder = std::make_shared<Recorder>();
  trainer.add_observer(recorder);
  trainer.fit(open_dataset(dataset));
  return recorder;
}

TEST(PolicyTask, TrainsOnADatasetAndImprovesOnHeldOutEpisodes) {
  const auto policy = std::make_shared<FakePolicy>();
  // Episodes 0 and 1 are of one task there, so what is learnt on one helps on the other.
  const auto recorder = train(policy, "train:*", options_with(150), "v30_h264");
  ASSERT_EQ(recorder->evaluations.size(), 2U);
  EXPECT_LT(recorder->evaluations[1].loss, 0.9 * recorder->evaluations[0].loss);
  EXPECT_EQ(recorder->evaluations[1].samples, 8);
  EXPECT_GT(recorder->evaluations[1].metrics.at("action_mse"), 0.0);
  EXPECT_GT(recorder->evaluations[1].metrics.at("action_mse_robot"), 0.0);
}

TEST(PolicyTask, HeldOutFramesAreNeverTrainedOn) {
  const LeRobotDataset dataset = open_dataset();
  const Episode& held_out = dataset.episodes()[1];
  const auto recorder = train(std::make_shared<FakePolicy>(), "train:*", options_with(30));
  EXPECT_GE(recorder->samples.size(), 30U);
  for (const std::int64_t sample : recorder->samples)
    EXPECT_TRUE(sample < held_out.from || sample >= held_out.to) << sample;
}

TEST(PolicyTask, StagesBeforeTheBoundaryRunWithoutGradAndTheOthersWithIt) {
  const auto policy = std::make_shared<FakePolicy>();
  const FreezePlan plan = policy->plan("freeze:*,train:body.*");
  ASSERT_EQ(plan.boundary, 1U);
  PolicyTask task(policy, plan, open_dataset(), options_with(1), at::kCPU);
  (void)task.loss({});
  EXPECT_FALSE(policy->grad_modes().at("eyes"));
  EXPECT_TRUE(policy->grad_modes().at("body"));
  EXPECT_TRUE(policy->grad_modes().at("hand"));
}

TEST(PolicyTask, BoundaryChangesNeitherLossNorGradients) {
  std::map<std::size_t, std::map<std::string, at::Tensor>> results;
  for (const std::size_t boundary : {0U, 1U, 2U}) {
    const auto policy = std::make_shared<FakePolicy>();
    FreezePlan plan = policy->plan("freeze:*,train:hand.*");
    plan.boundary = boundary;
    PolicyTask task(policy, plan, open_dataset(), options_with(1), at::kCPU);
    for (const PlannedParameter& planned : plan.parameters) {
      policy->module()->named_parameters()[planned.name].set_requires_grad(plan.trains(planned.name));
    }
    const at::Tensor loss = task.loss({});
    loss.backward();
    results[boundary]["loss"] = loss.detach();
    for (const std::string& name : plan.names(ParameterClass::trainable)) {
      results[boundary][name] = policy->module()->named_parameters()[name].grad();
    }
  }
  for (const auto& [name, tensor] : results[0]) {
    EXPECT_BITWISE_EQUAL(results[1].at(name), tensor) << name;
    EXPECT_BITWISE_EQUAL(results[2].at(name), tensor) << name;
  }
}

TEST(PolicyTask, NumberOfWorkersDoesNotMatter) {
  TrainOptions options = options_with(12);
  const auto none = train(std::make_shared<FakePolicy>(), "train:*", options);
  options.workers = 3;
  const auto three = train(std::make_shared<FakePolicy>(), "train:*", options);
  EXPECT_EQ(none->samples, three->samples);
  EXPECT_EQ(none->losses, three->losses);
}

TEST(PolicyTask, ResumedRunEqualsAnUninterruptedOneAndItsProofHolds) {
  const toy::Folder folder;
  const auto whole =
      train(std::make_shared<FakePolicy>(), "freeze:*,train:hand.*", options_with(17, folder.path() / "whole"));
  TrainOptions options = options_with(7, folder.path() / "parts");
  const auto first = train(std::make_shared<FakePolicy>(), "freeze:*,train:hand.*", options);
  options.steps = 17;
  options.resume = true;
  const auto second = train(std::make_shared<FakePolicy>(), "freeze:*,train:hand.*", options);
  std::vector<std::int64_t> samples = first->samples;
  samples.insert(samples.end(), second->samples.begin(), second->samples.end());
  EXPECT_EQ(samples, whole->samples);
  const VerifyReport report = verify_run(folder.path() / "parts", *FakePolicy().module());
  EXPECT_TRUE(report.passed()) << report.text();
}

TEST(PolicyTask, ResumedLossesAndWeightsAreBitForBitUnderOneSchedule) {
  const toy::Folder folder;
  // A run that is cut short must have been planned to its full length: the cosine depends on it.
  const auto options_for = [&](const char* name, std::int64_t steps) {
    TrainOptions options = options_with(steps, folder.path() / name);
    options.schedule = {.kind = ScheduleKind::constant, .warmup_steps = 3, .auto_scale = false};
    return options;
  };
  const auto whole = train(std::make_shared<FakePolicy>(), "train:*", options_for("whole", 17));
  const auto first = train(std::make_shared<FakePolicy>(), "train:*", options_for("parts", 7));
  TrainOptions again = options_for("parts", 17);
  again.resume = true;
  const auto second = train(std::make_shared<FakePolicy>(), "train:*", again);
  std::vector<double> losses = first->losses;
  losses.insert(losses.end(), second->losses.begin(), second->losses.end());
  EXPECT_EQ(losses, whole->losses);
  EXPECT_EQ(toy::file_bytes(folder.path() / "parts/heads/last/head.safetensors"),
            toy::file_bytes(folder.path() / "whole/heads/last/head.safetensors"));
}

TEST(PolicyTask, StatisticsAreThoseOfTheTrainingEpisodesAndTravelWithTheHead) {
  const toy::Folder folder;
  const auto policy = std::make_shared<FakePolicy>();
  Trainer trainer(policy, policy->plan("train:*"), options_with(2));
  trainer.fit(open_dataset());
  trainer.save_head(folder.path());
  const DatasetStatistics expected = compute_statistics(open_dataset().with({.episodes = {0}}));
  const Statistics used = policy->preprocessor().statistics();
  const at::Tensor mean = expected.values.at("action").at("mean").to(at::kDouble);
  const auto result = compare_tensors(used.at("action").at("mean").to(at::kDouble), mean, {.absolute = 1e-6});
  EXPECT_TRUE(result) << result.message;

  FakePolicy fresh;
  load_head(fresh, folder.path() / "head.safetensors");
  EXPECT_BITWISE_EQUAL(fresh.preprocessor().statistics().at("action").at("std"), used.at("action").at("std"));
  EXPECT_BITWISE_EQUAL(fresh.postprocessor().statistics().at("action").at("std"), used.at("action").at("std"));
}

TEST(PolicyTask, EvaluationUsesTheSameDrawsEveryTimeAndRobotUnitsFollowTheStatistics) {
  const auto policy = std::make_shared<FakePolicy>();
  Statistics statistics;
  for (const char* feature : {"action", "observation.state"}) {
    statistics[feature]["mean"] = at::zeros({4});
    statistics[feature]["std"] = at::full({4}, 2.0);
  }
  policy->preprocessor().set_statistics(statistics);
  policy->postprocessor().set_statistics(statistics);
  PolicyTask task(policy, policy->plan("train:*"), open_dataset(), options_with(1), at::kCPU, /*keep_statistics=*/true);
  const auto first = task.evaluate(0);
  const auto second = task.evaluate(500);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->loss, second->loss);
  EXPECT_EQ(first->metrics, second->metrics);
  EXPECT_NEAR(first->metrics.at("action_mse_robot"), 4.0 * first->metrics.at("action_mse"), 1e-5);
}

TEST(PolicyTask, WithoutHeldOutEpisodesThereIsNoEvaluation) {
  TrainOptions options = options_with(1);
  options.eval_episodes.clear();
  const auto policy = std::make_shared<FakePolicy>();
  PolicyTask task(policy, policy->plan("train:*"), open_dataset(), options, at::kCPU);
  EXPECT_FALSE(task.evaluate(0).has_value());
  EXPECT_EQ(task.training_frames(), open_dataset().size());
  EXPECT_EQ(task.micro_batches_per_epoch(), (open_dataset().size() + 3) / 4);
}

TEST(PolicyDeltas, OnlyWhatIsNotThePresentFrameIsAskedForAndRenamesAreFollowed) {
  const FakePolicy policy;
  const DeltaIndices deltas = policy_deltas(policy, open_dataset());
  ASSERT_EQ(deltas.size(), 1U);
  EXPECT_THAT(deltas.at("action"), testing::ElementsAre(0, 1, 2));
}

TEST(PolicyCameras, MissingOneIsNamedWithBothListsUnlessAllowedToBeMissing) {
  const FakePolicy policy("observation.images.top");
  const std::string message =
      toy::message_of<MismatchError>([&] { (void)policy_cameras(policy, open_dataset(), false); });
  EXPECT_THAT(message,
              testing::AllOf(testing::HasSubstr("observation.images.top"),
                             testing::HasSubstr("observation.images.corner"), testing::HasSubstr("rename map")));
  // With no camera in common there is nothing to allow.
  EXPECT_THROW((void)policy_cameras(policy, open_dataset(), true), MismatchError);
}

TEST(PolicyCameras, RenameMapMakesThemMeet) {
  FakePolicy policy("observation.images.top");
  policy.preprocessor().set_rename_map({{"observation.images.corner", "observation.images.top"}});
  EXPECT_THAT(policy_cameras(policy, open_dataset(), false), testing::ElementsAre("observation.images.corner"));
}

TEST(PolicyTask, RenamedCameraIsTrainedOn) {
  TrainOptions options = options_with(2);
  options.rename_map = {{"observation.images.corner", "observation.images.top"}};
  const auto policy = std::make_shared<FakePolicy>("observation.images.top");
  EXPECT_EQ(train(policy, "train:*", options)->losses.size(), 2U);
}

TEST(PolicyTask, ActionOfAnotherWidthIsRefusedWithBothShapes) {
  const auto policy = std::make_shared<FakePolicy>("observation.images.corner", 7);
  const std::string message = toy::message_of<MismatchError>([&] { (void)train(policy, "train:*", options_with(1)); });
  EXPECT_THAT(message,
              testing::AllOf(testing::HasSubstr("action"), testing::HasSubstr("[7]"), testing::HasSubstr("[4]")));
}

TEST(ChooseEpisodes, NumbersAreCheckedAgainstTheSelection) {
  TrainOptions options;
  options.eval_episodes = {5};
  EXPECT_THAT(toy::message_of<UsageError>([&] { (void)choose_episodes(open_dataset(), options); }),
              testing::HasSubstr("5"));
  options.eval_episodes = {0, 1};
  EXPECT_THAT(toy::message_of<UsageError>([&] { (void)choose_episodes(open_dataset(), options); }),
              testing::HasSubstr("left to train on"));
  options.eval_episodes = {1};
  const EpisodeSplit split = choose_episodes(open_dataset(), options);
  EXPECT_THAT(split.training, testing::ElementsAre(0));
  EXPECT_THAT(split.held_out, testing::ElementsAre(1));
}

}  // namespace
}  // namespace thaw::policy_task_test
