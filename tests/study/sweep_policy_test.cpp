#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "study/studies.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/train/shared_caches.h"
#include "train/fake_policy.h"

namespace thaw::sweep_policy_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::FakePolicy;
using toy::message_of;

const std::string kHand = "freeze:*,train:hand.*";
const std::string kBody = "freeze:*,train:hand.*,train:body.*";
const std::string kAll = "train:*";

LeRobotDataset dataset() {
  return LeRobotDataset::open(std::filesystem::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny/v30_png");
}

TrainOptions options_with(CacheCut cache) {
  TrainOptions options{.steps = 2,
                       .batch_size = 4,
                       .workers = 0,
                       .precision = Precision::fp32,
                       .device = at::Device(at::kCPU),
                       .log_every = 1,
                       .tensorboard = false,
                       .quiet = true,
                       .eval_episodes = {1},
                       .eval_samples = 8};
  options.prefix.cache = cache;
  options.prefix.batch_size = 1;  // composed alike with and without a cache
  return options;
}

SweepGrid grid_of(std::vector<std::string> rules) {
  return {.rules = std::move(rules), .learning_rates = {1e-2}, .seeds = {1, 2}};
}

std::vector<SweepResult> results_of(SweepSubject& subject, const SweepGrid& grid) {
  const toy::Folder place;
  SweepFolder folder(place.path() / "sweep", subject.setting(), false);
  EXPECT_TRUE(run_sweep(sweep_plan(subject, grid), subject, folder, {}));
  return folder.results();
}

std::vector<std::string> cuts_of(const std::vector<SweepResult>& results) {
  std::vector<std::string> cuts;
  for (const SweepResult& result : results) {
    EXPECT_FALSE(result.failed()) << result.error;
    if (result.point.seed == 1) cuts.push_back(result.cut);
  }
  return cuts;
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST(SweepPolicy, EveryPointEqualsATrainingOfItsOwnWithTheSameCutBitForBit) {
  const auto subject = sweep_policy(std::make_shared<FakePolicy>(), dataset(), options_with(CacheCut::vision));
  const std::vector<SweepResult> results = results_of(*subject, grid_of({kHand, kBody, kAll}));
  ASSERT_EQ(results.size(), 6U);
  EXPECT_THAT(cuts_of(results), ElementsAre("vision behind eyes", "vision behind eyes", "none"));
  for (const SweepResult& result : results) {
    const auto own = std::make_shared<FakePolicy>();
    TrainOptions options = options_with(result.cut == "none" ? CacheCut::none : CacheCut::vision);
    options.seed = result.point.seed;
    options.optimizer.learning_rate = 1e-2;
    Trainer trainer(own, own->plan(result.point.freeze), options);
    const FitResult fit = trainer.fit(dataset());
    EXPECT_EQ(result.held_out->loss, fit.evaluation->loss) << result.point.freeze;
    EXPECT_EQ(result.held_out->metrics, fit.evaluation->metrics) << result.point.freeze;
    EXPECT_EQ(result.training_loss, fit.loss) << result.point.freeze;
  }
}

TEST(SweepPolicy, AllPointsShareTheDeepestCutThatEachOfThemAllows) {
  const auto cuts = [](CacheCut cache, const std::vector<std::string>& rules) {
    const auto subject = sweep_policy(std::make_shared<FakePolicy>(), dataset(), options_with(cache));
    return cuts_of(results_of(*subject, grid_of(rules)));
  };
  EXPECT_THAT(cuts(CacheCut::kv, {kHand}), ElementsAre("kv behind body"));
  EXPECT_THAT(cuts(CacheCut::kv, {kHand, kBody}), ElementsAre("kv behind body", "none"));
  EXPECT_THAT(cuts(CacheCut::none, {kHand}), ElementsAre("none"));
}

TEST(SweepPolicy, ActionErrorsTakenApartHaveTheMeanOfTheWhole) {
  const auto subject = sweep_policy(std::make_shared<FakePolicy>(), dataset(), options_with(CacheCut::none));
  const SweepResult result = results_of(*subject, grid_of({kHand})).front();
  const auto& series = result.held_out->series;
  ASSERT_EQ(series.at("action_mse_by_dimension").size(), static_cast<std::size_t>(FakePolicy::kWidth));
  ASSERT_EQ(series.at("action_mse_by_step").size(), static_cast<std::size_t>(FakePolicy::kChunk));
  const double whole = result.held_out->metrics.at("action_mse");
  EXPECT_NEAR(mean(series.at("action_mse_by_dimension")), whole, 1e-12 * whole);
  const double robot = result.held_out->metrics.at("action_mse_robot");
  EXPECT_NEAR(mean(series.at("action_mse_robot_by_dimension")), robot, 1e-12 * robot);
}

TEST(SweepPolicy, AfterASweepThePolicyHoldsTheBaseAgain) {
  const auto policy = std::make_shared<FakePolicy>();
  policy->remember_weights();  // weights that a full cache leaves idle are given up, and read again
  const auto before = toy::copy_of(*policy->module());
  TrainOptions options = options_with(CacheCut::kv);
  options.steps = 100;  // sees every frame: the cache is filled first
  {
    const auto subject = sweep_policy(policy, dataset(), options);
    for (const SweepResult& result : results_of(*subject, grid_of({kHand, kAll}))) {
      EXPECT_FALSE(result.failed()) << result.error;
    }
  }
  for (const auto& [name, tensor] : toy::copy_of(*policy->module())) EXPECT_BITWISE_EQUAL(tensor, before.at(name));
}

/// Two policies of different weights; `alive` is told each that is loaded.
std::vector<SweepBaseSource> two_bases(std::vector<std::weak_ptr<FakePolicy>>& alive) {
  const auto loader = [&alive](double factor) {
    return [&alive, factor]() -> std::shared_ptr<Policy> {
      for (const auto& earlier : alive) EXPECT_TRUE(earlier.expired()) << "one base at a time is in memory";
      const auto policy = std::make_shared<FakePolicy>();
      const at::NoGradGuard no_grad;
      for (auto& item : policy->module()->named_parameters()) item.value().mul_(factor);
      alive.push_back(policy);
      return policy;
    };
  };
  return {{.pruning = {}, .load = loader(1.0)},
          {.pruning = {.count = 1, .removed = {{"blocks", {0}}}}, .load = loader(0.5)}};
}

TEST(SweepPolicies, PointsOfEachBaseAreThoseOfASweepOfThatBaseAlone) {
  std::vector<std::weak_ptr<FakePolicy>> alive;
  const TrainOptions options = options_with(CacheCut::kv);
  const SweepGrid grid = grid_of({kHand, kBody});
  const auto together = sweep_policies(two_bases(alive), dataset(), options);
  const std::vector<SweepResult> results = results_of(*together, grid);
  ASSERT_EQ(results.size(), 8U);
  std::size_t number = 0;
  for (const SweepBaseSource& base : two_bases(alive)) {
    together->prepare({});  // lets go of the base that it holds
    const auto alone = sweep_policy(base.load(), dataset(), options);
    for (const SweepResult& own : results_of(*alone, grid)) {
      const SweepResult& point = results[number++];
      EXPECT_EQ(point.point.pruning, base.pruning);
      EXPECT_EQ(point.point.id, own.point.id);
      EXPECT_EQ(point.held_out->loss, own.held_out->loss) << point.point.name();
      EXPECT_EQ(point.cut, own.cut);
    }
  }
  EXPECT_NE(results[0].held_out->loss, results[4].held_out->loss) << "the bases differ";
}

TEST(SweepPolicies, AFreezeOfABaseThatIsNotThereIsRefused) {
  std::vector<std::weak_ptr<FakePolicy>> alive;
  const auto subject = sweep_policies(two_bases(alive), dataset(), options_with(CacheCut::none));
  SweepFreeze freeze = subject->freezes(grid_of({kHand})).front();
  freeze.pruning.count = 7;
  EXPECT_THAT(message_of<MismatchError>([&] { (void)subject->train({}, freeze, "heads", {}); }),
              HasSubstr("with 7 pruned': expected a base of the sweep"));
  EXPECT_THAT(message_of<UsageError>([&] { (void)sweep_policies({}, dataset(), options_with(CacheCut::none)); }),
              HasSubstr("at least one base"));
}

TEST(SweepPolicy, WithoutHeldOutEpisodesItIsRefused) {
  TrainOptions options = options_with(CacheCut::none);
  options.eval_episodes.clear();
  EXPECT_THAT(message_of<UsageError>([&] { (void)sweep_policy(std::make_shared<FakePolicy>(), dataset(), options); }),
              HasSubstr("Give --eval-split 0.2 or --eval-episodes."));
}

TEST(SharedCaches, OneIdentityIsOneCacheAndAnotherIsAnother) {
  SharedCaches caches;
  const CacheIdentity a{.fields = {{"weights", "1"}}};
  const CacheIdentity b{.fields = {{"weights", "2"}}};
  const CacheOptions options{.memory_bytes = 1000};
  EXPECT_EQ(caches.open(a, options), caches.open(a, options));
  EXPECT_NE(caches.open(a, options), caches.open(b, options));
  EXPECT_NE(caches.open(a, options), caches.open(a, {.memory_bytes = 1000, .storage = CacheStorage::bf16}));
}

}  // namespace
}  // namespace thaw::sweep_policy_test
