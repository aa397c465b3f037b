// Training with a cached prefix: the same numbers as without, misses where anything changed, and what happens to a
// damaged cache, to idle weights and to several runs on one folder.
#include <torch/nn/module.h>

#include <fstream>

#include "fake_policy.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/freeze/apply.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/trainer.h"
#include "thaw/train/verify.h"
#include "toy.h"

namespace thaw::prefix_cache_run_test {
namespace {

namespace fs = std::filesystem;
using toy::FakePolicy;

LeRobotDataset open_dataset(const char* name = "v30_png") {
  return LeRobotDataset::open(fs::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny" / name);
}

TrainOptions options_with(CacheCut cache, std::int64_t steps = 1, const fs::path& folder = {}) {
  TrainOptions options{.steps = steps,
                       .batch_size = 4,
                       .workers = 0,
                       .precision = Precision::fp32,
                       .device = at::Device(at::kCPU),
                       .save_every = 0,
                       .tensorboard = false,
                       .quiet = true,
                       .eval_episodes = {1},
                       .eval_samples = 8};
  options.prefix.cache = cache;
  options.prefix.batch_size = 1;  // composed alike with and without a cache
  options.prefix.store.folder = folder;
  return options;
}

struct Losses : TrainObserver {
  void on_step(const StepReport& report) override { all.push_back(report.loss()); }
  void on_evaluation(std::int64_t /*step*/, const EvaluationResult& result) override {
    all.push_back(result.loss);
    all.push_back(result.metrics.at("action_mse"));
  }
  std::vector<double> all;
};

constexpr const char* kRules = "freeze:*,train:hand.*";

std::vector<double> losses_of(const TrainOptions& options, const std::shared_ptr<FakePolicy>& policy) {
  Trainer trainer(policy, policy->plan(kRules), options);
  const auto losses = std::make_shared<Losses>();
  trainer.add_observer(losses);
  trainer.fit(open_dataset());
  return losses->all;
}

std::vector<double> losses_of(const TrainOptions& options) {
  return losses_of(options, std::make_shared<FakePolicy>());
}

/// A task as a trainer makes it, with what its plan needs.
struct Task {
  explicit Task(const TrainOptions& options, std::shared_ptr<FakePolicy> with = std::make_shared<FakePolicy>(),
                const char* dataset = "v30_png")
      : policy(std::move(with)), plan(policy->plan(kRules)) {
    add_digests(plan, *policy->module());
    apply_freeze(plan, *policy->module());
    task = std::make_unique<PolicyTask>(policy, plan, open_dataset(dataset), options, at::Device(at::kCPU));
  }
  std::int64_t computed_by_filling() {
    EXPECT_TRUE(task->fill_cache([](std::int64_t, std::int64_t) { return true; }));
    return task->cache_statistics()->stored;
  }
  std::shared_ptr<FakePolicy> policy;
  FreezePlan plan;
  std::unique_ptr<PolicyTask> task;
};

fs::path only_shard(const fs::path& folder) {
  fs::path found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") found = entry.path();
  }
  return found;
}

TEST(PrefixCacheRun, GivesTheLossesAndMeasurementsOfAnUncachedRunBitForBit) {
  const std::vector<double> plain = losses_of(options_with(CacheCut::none, 60));
  EXPECT_EQ(losses_of(options_with(CacheCut::kv, 60)), plain);
  // Behind a shorter prefix the other frozen stages run on the whole batch instead of sample by sample.
  const std::vector<double> vision = losses_of(options_with(CacheCut::vision, 60));
  ASSERT_EQ(vision.size(), plain.size());
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(vision[i], plain[i], 1e-5 * plain[i]) << i;
}

TEST(PrefixCacheRun, StagesBehindTheCutTakeAsManySamplesAtATimeAsWasAskedFor) {
  for (const std::int64_t asked : {1, 3, 0}) {
    TrainOptions options = options_with(CacheCut::vision);
    options.eval_episodes.clear();
    options.prefix.batch_size = asked;
    const auto policy = std::make_shared<FakePolicy>();
    static_cast<void>(losses_of(options, policy));
    const std::map<std::int64_t, std::int64_t> last{{1, 1}, {3, 4 % 3}, {0, 4}};
    EXPECT_EQ(policy->samples_at_a_time().at("body"), last.at(asked)) << asked;
    EXPECT_EQ(policy->samples_at_a_time().at("hand"), 4) << asked;
  }
}

TEST(PrefixCacheRun, OnDiskWithWorkersAndABudgetForAFewEntriesOnlyGivesTheSame) {
  const toy::Folder folder;
  const std::vector<double> plain = losses_of(options_with(CacheCut::none, 40));
  TrainOptions options = options_with(CacheCut::kv, 40, folder.path());
  options.workers = 3;
  options.prefix.store.memory_bytes = 200;
  options.prefix.store.shard_bytes = 256;
  options.prefix.store.disk_bytes = 20'000;
  EXPECT_EQ(losses_of(options), plain);
}

TEST(PrefixCacheRun, ResumedHalfwayGivesTheLossesOfAnUninterruptedRun) {
  const toy::Folder folder;
  const auto options_for = [&](const char* name, std::int64_t steps) {
    TrainOptions options = options_with(CacheCut::kv, steps, folder.path() / "cache");
    options.eval_episodes.clear();
    options.output = folder.path() / name;
    options.schedule = {.kind = ScheduleKind::constant, .warmup_steps = 3, .auto_scale = false};
    return options;
  };
  const std::vector<double> whole = losses_of(options_for("whole", 23));
  std::vector<double> parts = losses_of(options_for("parts", 9));
  TrainOptions again = options_for("parts", 23);
  again.resume = true;
  const std::vector<double> rest = losses_of(again);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(parts, whole);
  EXPECT_EQ(toy::file_bytes(folder.path() / "parts/heads/last/head.safetensors"),
            toy::file_bytes(folder.path() / "whole/heads/last/head.safetensors"));
}

TEST(PrefixCacheRun, SecondRunOnAFolderComputesNothing) {
  const toy::Folder folder;
  const std::int64_t first = Task(options_with(CacheCut::kv, 1, folder.path())).computed_by_filling();
  EXPECT_EQ(first, open_dataset().size());
  EXPECT_EQ(Task(options_with(CacheCut::kv, 1, folder.path())).computed_by_filling(), 0);
}

TEST(PrefixCacheRun, FillingThatWasStoppedGoesOnWhereItStopped) {
  const toy::Folder folder;
  const std::int64_t all = open_dataset().size();
  std::int64_t before = 0;
  {
    Task task(options_with(CacheCut::kv, 1, folder.path()));
    EXPECT_FALSE(task.task->fill_cache([](std::int64_t done, std::int64_t) { return done < 8; }));
    before = task.task->cache_statistics()->stored;
    EXPECT_EQ(before, 8);
  }
  EXPECT_EQ(Task(options_with(CacheCut::kv, 1, folder.path())).computed_by_filling(), all - before);
}

TEST(PrefixCacheRun, ChangedWeightsBeforeTheCutMissAndOthersHit) {
  const toy::Folder folder;
  const TrainOptions options = options_with(CacheCut::vision, 1, folder.path());
  Task(options).computed_by_filling();
  const auto with_changed = [](const char* name) {
    const at::NoGradGuard no_grad;
    auto policy = std::make_shared<FakePolicy>();
    policy->module()->named_parameters()[name].view({-1})[0] += 1e-3;
    return policy;
  };
  EXPECT_EQ(Task(options, with_changed("body.weight")).computed_by_filling(), 0);
  EXPECT_EQ(Task(options, with_changed("eyes.weight")).computed_by_filling(), open_dataset().size());
}

TEST(PrefixCacheRun, AnotherDatasetOtherProcessingAndAnotherCutMiss) {
  const toy::Folder folder;
  const TrainOptions options = options_with(CacheCut::kv, 1, folder.path());
  Task(options).computed_by_filling();
  EXPECT_GT(Task(options, std::make_shared<FakePolicy>(), "v30_h264").computed_by_filling(), 0);
  EXPECT_GT(Task(options_with(CacheCut::vision, 1, folder.path())).computed_by_filling(), 0);
  TrainOptions other_statistics = options;
  other_statistics.eval_episodes = {0};
  EXPECT_GT(Task(other_statistics).computed_by_filling(), 0);
  EXPECT_EQ(Task(options).computed_by_filling(), 0);
}

TEST(PrefixCacheRun, FlippedByteOnDiskIsComputedAgainAndChangesNoLoss) {
  const toy::Folder folder;
  const std::vector<double> plain = losses_of(options_with(CacheCut::none, 20));
  Task(options_with(CacheCut::kv, 1, folder.path())).computed_by_filling();
  const fs::path shard = only_shard(folder.path());
  {
    std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-9, std::ios::end);
    const char byte = static_cast<char>(file.get() ^ 0x20);
    file.seekp(-9, std::ios::end);
    file.put(byte);
  }
  TrainOptions options = options_with(CacheCut::kv, 20, folder.path());
  EXPECT_EQ(losses_of(options), plain);
}

TEST(PrefixCacheRun, TwoRunsAtOnceOnOneFolderGiveTheSame) {
  const toy::Folder folder;
  const TrainOptions options = options_with(CacheCut::kv, 1, folder.path());
  Task first(options);
  Task second(options);
  const at::Tensor a = first.task->loss({});
  const at::Tensor b = second.task->loss({});
  EXPECT_BITWISE_EQUAL(a.detach(), b.detach());
  EXPECT_EQ(second.computed_by_filling(), open_dataset().size());
  EXPECT_EQ(first.computed_by_filling(), open_dataset().size());
}

TEST(PrefixCacheRun, CheckFindsAnEntryThatIsNotWhatTheStagesCompute) {
  TrainOptions options = options_with(CacheCut::kv);
  options.prefix.check = 1.0;
  Task task(options);
  task.computed_by_filling();
  (void)task.task->loss({});  // all is well so far
  {
    const at::NoGradGuard no_grad;  // what must never happen: frozen weights change under a filled cache
    task.policy->module()->named_parameters()["eyes.weight"].mul_(1.5);
  }
  const std::string message =
      toy::message_of<CheckFailed>([&] { (void)task.task->loss({.step = 1, .micro_batch = 1}); });
  EXPECT_THAT(message, testing::AllOf(testing::HasSubstr("cached prefix of frame"), testing::HasSubstr("features")));
}

TEST(PrefixCacheRun, WithoutAsksForAChecksOfACacheNothingIsChecked) {
  Task task(options_with(CacheCut::none));
  EXPECT_FALSE(task.task->cache_statistics().has_value());
  EXPECT_THAT(toy::message_of<UsageError>([&] { (void)task.task->fill_cache({}); }), testing::HasSubstr("none"));
}

TEST(PrefixCacheRun, CutBehindSomethingThatTrainsIsRefusedWithTheStage) {
  const auto policy = std::make_shared<FakePolicy>();
  FreezePlan plan = policy->plan("freeze:*,train:body.*");
  add_digests(plan, *policy->module());
  const std::string message = toy::message_of<UsageError>(
      [&] { PolicyTask(policy, plan, open_dataset(), options_with(CacheCut::kv), at::Device(at::kCPU)); });
  EXPECT_THAT(message, testing::AllOf(testing::HasSubstr("cache kv"), testing::HasSubstr("'body'"),
                                      testing::HasSubstr("none, vision")));
}

TEST(PrefixCacheRun, IdleWeightsLeaveMemoryOnceAllIsCachedAndComeBackUnchanged) {
  const auto policy = std::make_shared<FakePolicy>();
  policy->remember_weights();
  const at::Tensor eyes = policy->module()->named_parameters()["eyes.weight"].detach().clone();
  const std::vector<double> plain = losses_of(options_with(CacheCut::none, 30));
  {
    Task task(options_with(CacheCut::kv), policy);
    task.computed_by_filling();
    (void)task.task->loss({});
    const auto held = [&](const char* name) { return policy->module()->named_parameters()[name].storage().nbytes(); };
    EXPECT_EQ(held("eyes.weight"), sizeof(float));
    EXPECT_EQ(held("body.weight"), sizeof(float));
    EXPECT_EQ(held("hand.weight"), 44 * sizeof(float));
    EXPECT_EQ(policy->module()->named_parameters()["eyes.weight"].sizes(), at::IntArrayRef({4, 3}));
  }
  EXPECT_BITWISE_EQUAL(policy->module()->named_parameters()["eyes.weight"].detach(), eyes);
  const auto again = std::make_shared<FakePolicy>();
  again->remember_weights();
  EXPECT_EQ(losses_of(options_with(CacheCut::kv, 30), again), plain);
}

TEST(PrefixCacheRun, WeightsThatNeedNotReturnAreNaNBehindTheTraining) {
  const auto policy = std::make_shared<FakePolicy>();
  policy->remember_weights();
  TrainOptions options = options_with(CacheCut::kv);
  options.prefix.weights_return = false;
  {
    Task task(options, policy);
    task.computed_by_filling();
    (void)task.task->loss({});
  }
  EXPECT_TRUE(policy->module()->named_parameters()["eyes.weight"].isnan().all().item<bool>());
  EXPECT_FALSE(policy->module()->named_parameters()["hand.weight"].isnan().any().item<bool>());
}

TEST(PrefixCacheRun, RunWhoseIdleWeightsLeftMemoryIsVerified) {
  const toy::Folder folder;
  const auto policy = std::make_shared<FakePolicy>();
  policy->remember_weights();
  TrainOptions options = options_with(CacheCut::kv, 30);
  options.output = folder.path() / "run";
  losses_of(options, policy);
  const VerifyReport report = verify_run(folder.path() / "run", *FakePolicy().module());
  EXPECT_TRUE(report.passed()) << report.text();
}

TEST(PrefixCacheRun, ShorterFormsOfStorageStayNearTheUncachedLosses) {
  const std::vector<double> plain = losses_of(options_with(CacheCut::none, 10));
  for (const CacheStorage storage : {CacheStorage::bf16, CacheStorage::int8}) {
    TrainOptions options = options_with(CacheCut::kv, 10);
    options.prefix.store.storage = storage;
    const std::vector<double> losses = losses_of(options);
    ASSERT_EQ(losses.size(), plain.size());
    for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(losses[i], plain[i], 0.02 * plain[i]) << i;
  }
}

TEST(CheckpointedStages, GiveTheLossesOfAPlainRunBitForBitBehindAFrozenPrefixAndWithoutOne) {
  for (const char* rules : {"freeze:*,train:hand.*", "train:*"}) {
    std::vector<std::vector<double>> all;
    for (const bool checkpointed : {false, true}) {
      const auto policy = std::make_shared<FakePolicy>();
      TrainOptions options = options_with(CacheCut::none, 20);
      options.checkpoint_activations = checkpointed;
      Trainer trainer(policy, policy->plan(rules), options);
      const auto losses = std::make_shared<Losses>();
      trainer.add_observer(losses);
      trainer.fit(open_dataset());
      all.push_back(losses->all);
    }
    EXPECT_EQ(all[0], all[1]) << rules;
  }
}

TEST(Draws, SeveralShareAPrefixAndTheirLossIsTheMean) {
  TrainOptions options = options_with(CacheCut::none);
  options.draws = 3;
  const auto policy = std::make_shared<FakePolicy>();
  Task task(options, policy);
  const at::Tensor loss = task.task->loss({});
  std::vector<at::Tensor> single;
  const LeRobotDataset dataset = open_dataset();
  for (std::int64_t k = 0; k < 3; ++k) {
    std::vector<Sample> samples;
    const LeRobotDataset wanted = dataset.with({.deltas = policy_deltas(*policy, dataset)});
    for (const std::int64_t index : task.task->last_samples()) samples.push_back(wanted.sample(index));
    const Batch batch = policy->preprocessor()(collate(samples));
    const Draw draw = policy->draw(batch, 0, DrawPurpose::training, static_cast<std::uint64_t>(k), 1);
    single.push_back(policy_loss(*policy, task.plan.boundary, batch, draw).detach());
  }
  const auto result = compare_tensors(loss.detach(), at::stack(single).mean(), {.relative = 1e-6});
  EXPECT_TRUE(result) << result.message;
}

}  // namespace
}  // namespace thaw::prefix_cache_run_test
