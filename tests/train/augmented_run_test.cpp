// Training on changed pictures: what is drawn depends on frame, pass and seed alone, and fixed views can be cached.
#include <torch/nn/module.h>

#include "fake_policy.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/freeze/apply.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/trainer.h"
#include "toy.h"

namespace thaw::augmented_run_test {
namespace {

namespace fs = std::filesystem;
using toy::FakePolicy;

constexpr const char* kRules = "freeze:*,train:hand.*";

LeRobotDataset open_dataset() {
  return LeRobotDataset::open(fs::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny/v30_png");
}

TrainOptions options_with(std::int64_t views, CacheCut cache = CacheCut::none, const fs::path& folder = {}) {
  TrainOptions options{.steps = 26,  // six passes over the data and more
                       .batch_size = 4,
                       .workers = 0,
                       .precision = Precision::fp32,
                       .device = at::Device(at::kCPU),
                       .save_every = 0,
                       .tensorboard = false,
                       .quiet = true,
                       .eval_episodes = {1},
                       .eval_samples = 8};
  options.image_transforms = {.enable = true, .views = views};
  options.prefix.cache = cache;
  options.prefix.batch_size = 1;  // composed alike with and without a cache
  options.prefix.store.folder = folder;
  return options;
}

TrainOptions plain_options() {
  TrainOptions options = options_with(0);
  options.image_transforms.enable = false;
  return options;
}

struct Losses : TrainObserver {
  void on_step(const StepReport& report) override { all.push_back(report.loss()); }
  std::vector<double> all;
};

std::vector<double> losses_of(const TrainOptions& options) {
  const auto policy = std::make_shared<FakePolicy>();
  Trainer trainer(policy, policy->plan(kRules), options);
  const auto losses = std::make_shared<Losses>();
  trainer.add_observer(losses);
  trainer.fit(open_dataset());
  return losses->all;
}

struct Task {
  explicit Task(const TrainOptions& options) : plan(policy->plan(kRules)) {
    policy->remember_weights();
    add_digests(plan, *policy->module());
    apply_freeze(plan, *policy->module());
    task = std::make_unique<PolicyTask>(policy, plan, open_dataset(), options, at::Device(at::kCPU));
  }
  std::int64_t computed_by_filling() {
    EXPECT_TRUE(task->fill_cache([](std::int64_t, std::int64_t) { return true; }));
    return task->cache_statistics()->stored;
  }
  [[nodiscard]] std::int64_t held_out() const { return task->frames() - task->training_frames(); }
  [[nodiscard]] bool holds_weights() const {
    return policy->module()->named_parameters()["eyes.weight"].storage().nbytes() > sizeof(float);
  }
  std::shared_ptr<FakePolicy> policy = std::make_shared<FakePolicy>();
  FreezePlan plan;
  std::unique_ptr<PolicyTask> task;
};

TEST(AugmentedRun, DependsOnPassAndSeedAloneWhateverTheWorkers) {
  std::vector<std::vector<double>> all{losses_of(plain_options())};
  for (const std::int64_t views : {0, 2}) {
    const std::vector<double> expected = losses_of(options_with(views));
    for (const std::vector<double>& other : all) EXPECT_NE(expected, other) << views;
    for (const int workers : {1, 2}) {
      TrainOptions options = options_with(views);
      options.workers = workers;
      EXPECT_EQ(losses_of(options), expected) << views << " views, " << workers << " workers";
    }
    all.push_back(expected);
  }
}

TEST(AugmentedRun, ShowsNewPicturesInEveryPassWhereViewsAreNotFixed) {
  TrainOptions options = options_with(0);
  const auto pass = static_cast<std::size_t>(Task(options).task->micro_batches_per_epoch());
  options.steps = static_cast<std::int64_t>(pass) + 3;
  const std::vector<double> random = losses_of(options);
  options.image_transforms.views = 1;  // the first view of every frame, over and over
  const std::vector<double> fixed = losses_of(options);
  const auto in_first_pass = [pass](const std::vector<double>& losses) {
    return std::vector<double>(losses.begin(), losses.begin() + static_cast<std::ptrdiff_t>(pass));
  };
  EXPECT_EQ(in_first_pass(random), in_first_pass(fixed));
  EXPECT_NE(random[pass], fixed[pass]);
}

TEST(AugmentedRun, ShowsEachFixedViewOnceInAsManyPasses) {
  Task task(options_with(2, CacheCut::kv));
  std::int64_t batch = 0;
  const auto computed_after_a_pass = [&] {
    for (std::int64_t i = 0; i < task.task->micro_batches_per_epoch(); ++i, ++batch) {
      (void)task.task->loss({.step = batch, .micro_batch = batch});
    }
    return task.task->cache_statistics()->stored;
  };
  const std::int64_t frames = task.task->training_frames();
  EXPECT_EQ(computed_after_a_pass(), frames);
  EXPECT_EQ(computed_after_a_pass(), 2 * frames);
  EXPECT_EQ(computed_after_a_pass(), 2 * frames);
}

TEST(AugmentedRun, ResumedHalfwayGivesTheLossesOfAnUninterruptedRun) {
  for (const std::int64_t views : {0, 3}) {
    const toy::Folder folder;
    const auto options_for = [&](const char* name, std::int64_t steps) {
      TrainOptions options = options_with(views, views > 0 ? CacheCut::kv : CacheCut::none);
      options.steps = steps;
      options.eval_episodes.clear();
      options.output = folder.path() / name;
      options.schedule = {.kind = ScheduleKind::constant, .warmup_steps = 3, .auto_scale = false};
      return options;
    };
    const std::vector<double> whole = losses_of(options_for("whole", 33));
    std::vector<double> parts = losses_of(options_for("parts", 19));
    TrainOptions again = options_for("parts", 33);
    again.resume = true;
    const std::vector<double> rest = losses_of(again);
    parts.insert(parts.end(), rest.begin(), rest.end());
    EXPECT_EQ(parts, whole) << views;
    EXPECT_EQ(toy::file_bytes(folder.path() / "parts/heads/last/head.safetensors"),
              toy::file_bytes(folder.path() / "whole/heads/last/head.safetensors"))
        << views;
  }
}

TEST(AugmentedRun, WithViewsFromACacheEqualsOneWithoutBitForBit) {
  const toy::Folder folder;
  const std::vector<double> plain = losses_of(options_with(3));
  EXPECT_EQ(losses_of(options_with(3, CacheCut::kv)), plain);
  TrainOptions on_disk = options_with(3, CacheCut::kv, folder.path());
  on_disk.workers = 2;
  on_disk.prefix.store.memory_bytes = 200;  // a few entries only
  on_disk.prefix.store.shard_bytes = 256;
  EXPECT_EQ(losses_of(on_disk), plain);
  EXPECT_EQ(losses_of(on_disk), plain) << "from what the first left";
}

TEST(AugmentedRun, EntriesThatAreCheckedAreComputedFromTheSameView) {
  TrainOptions options = options_with(3, CacheCut::kv);
  options.prefix.check = 1.0;
  EXPECT_EQ(losses_of(options), losses_of(options_with(3)));
}

TEST(AugmentedRun, MeasuresHeldOutPicturesAsRecorded) {
  Task plain(plain_options());
  for (const CacheCut cache : {CacheCut::none, CacheCut::kv}) {
    Task augmented(options_with(2, cache));
    const at::NoGradGuard no_grad;
    EXPECT_EQ(augmented.task->evaluate(0)->loss, plain.task->evaluate(0)->loss);
  }
}

TEST(AugmentedRun, FillsEveryViewOfWhatIsTrainedOnAndHeldOutFramesOnce) {
  const toy::Folder folder;
  Task three(options_with(3, CacheCut::kv, folder.path()));
  const std::int64_t all = 3 * three.task->training_frames() + three.held_out();
  EXPECT_EQ(three.task->prefixes(), all);
  std::int64_t last = 0, total = 0;
  EXPECT_TRUE(three.task->fill_cache([&](std::int64_t done, std::int64_t of) {
    last = done;
    total = of;
    return true;
  }));
  EXPECT_EQ(last, all);
  EXPECT_EQ(total, all);
  EXPECT_EQ(three.task->cache_statistics()->stored, all);
  three.task.reset();  // lets go of the folder
  EXPECT_EQ(Task(options_with(3, CacheCut::kv, folder.path())).computed_by_filling(), 0);
  Task five(options_with(5, CacheCut::kv, folder.path()));
  EXPECT_EQ(five.computed_by_filling(), 2 * five.task->training_frames()) << "more views find those that are there";
}

TEST(AugmentedRun, FilledViewsServeTrainingWithoutComputingAPrefix) {
  Task task(options_with(3, CacheCut::kv));
  const std::int64_t filled = task.computed_by_filling();
  for (std::int64_t batch = 0; batch < 4 * task.task->micro_batches_per_epoch(); ++batch) {
    (void)task.task->loss({.step = batch, .micro_batch = batch});
  }
  EXPECT_EQ(task.task->cache_statistics()->stored, filled);
  EXPECT_EQ(task.task->cache_statistics()->misses, 0);
}

TEST(AugmentedRun, AnyOtherTransformOrSeedMissesTheCache) {
  const toy::Folder folder;
  const TrainOptions options = options_with(2, CacheCut::kv, folder.path());
  const std::int64_t all = Task(options).computed_by_filling();
  EXPECT_EQ(Task(options).computed_by_filling(), 0);
  const auto computed_with = [&](const auto& edit) {
    TrainOptions other = options;
    edit(other);
    return Task(other).computed_by_filling();
  };
  EXPECT_EQ(computed_with([](TrainOptions& o) { o.image_transforms.max_num_transforms = 2; }), all);
  EXPECT_EQ(computed_with([](TrainOptions& o) { o.image_transforms.random_order = true; }), all);
  EXPECT_EQ(computed_with([](TrainOptions& o) { o.image_transforms.transforms[1].weight = 0.5; }), all);
  EXPECT_EQ(computed_with([](TrainOptions& o) { o.image_transforms.transforms[3].kwargs["hue"][0] = 0.0; }), all);
  EXPECT_EQ(computed_with([](TrainOptions& o) { o.seed = 1001; }), all);
  const auto as_recorded = [](TrainOptions& o) { o.image_transforms = {}; };
  EXPECT_EQ(computed_with(as_recorded), Task(options).task->frames());
  EXPECT_EQ(Task(options).computed_by_filling(), 0) << "the first entries are still there";
}

TEST(AugmentedRun, IdleWeightsLeaveMemoryOnlyOnceEveryViewIsCached) {
  const TrainOptions options = options_with(2, CacheCut::kv);
  Task task(options);
  const std::int64_t first_view = task.task->training_frames();
  EXPECT_FALSE(task.task->fill_cache([&](std::int64_t done, std::int64_t) { return done < first_view; }));
  (void)task.task->loss({});
  EXPECT_TRUE(task.holds_weights());
  task.computed_by_filling();
  (void)task.task->loss({.step = 1, .micro_batch = task.task->micro_batches_per_epoch()});
  EXPECT_FALSE(task.holds_weights());
}

TEST(AugmentedRun, CacheOfOpenEndedPicturesIsRefusedWithBothWaysOut) {
  for (const CacheCut cut : {CacheCut::kv, CacheCut::vision, CacheCut::automatic}) {
    const TrainOptions options = options_with(0, cut);
    EXPECT_THAT(toy::message_of<UsageError>([&] { options.validate(); }),
                testing::AllOf(testing::HasSubstr("--views 4"), testing::HasSubstr("--cache none"),
                               testing::HasSubstr(std::string(cache_cut_name(cut)))));
  }
  EXPECT_NO_THROW(options_with(4, CacheCut::kv).validate());
  EXPECT_NO_THROW(options_with(0, CacheCut::none).validate());
  TrainOptions views_alone = plain_options();
  views_alone.image_transforms.views = 4;
  EXPECT_THAT(toy::message_of<UsageError>([&] { views_alone.validate(); }), testing::HasSubstr("--image-transforms"));
}

}  // namespace
}  // namespace thaw::augmented_run_test
