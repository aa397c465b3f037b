// What a freeze promises, for every policy type and random freezes: nothing frozen moves, and a cached prefix trains
// the same weights as none.
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <set>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/freeze/apply.h"
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/freeze/prefix_cut.h"
#include "thaw/models/registry.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/parameters.h"
#include "thaw/train/precision.h"
#include "thaw/train/trainer.h"
#include "thaw/train/verify.h"

namespace thaw::random_freezes_test {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

constexpr std::uint64_t kFreezes = 4;
constexpr std::int64_t kSteps = 4;
const std::string kAlwaysTrained = "model.action_out_proj.bias";

LeRobotDataset dataset() {
  return LeRobotDataset::open(fs::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny/v30_av1");
}

std::shared_ptr<Policy> base(const std::string& type, const LeRobotDataset& data) {
  const fs::path golden = fs::path(thaw::test::source_dir()) / "tests/golden" / ("checkpoint_" + type);
  Features actions;
  for (const Feature& feature : data.features()) {
    if (feature.type == FeatureType::action) actions.push_back(feature);
  }
  return load_policy(golden / "pretrained_model",
                     {.tokenizer_folder = golden / "tokenizer", .output_features = actions});
}

double uniform(std::uint64_t number, std::uint64_t what) {
  return random_uniform({.seed = 611, .stream = RandomStream::test, .step = number, .sample = what}, 1).item<double>();
}

std::int64_t pick(std::uint64_t number, std::uint64_t what, std::int64_t count) {
  return static_cast<std::int64_t>(uniform(number, what) * static_cast<double>(count));
}

/// Trains a random share of what is used behind a random place of the line alone, so that every kind of cut has its
/// turn.
LayerFreezePolicy random_rules(const Policy& policy, std::uint64_t number) {
  const ModelLayout& layout = policy.layout();
  const FreezePlan least = LayerFreezePolicy{}.freeze("*").train(kAlwaysTrained).resolve(policy);
  const std::vector<PrefixCut> cuts = deepest_cuts(layout, least);  // none, vision, hidden, kv
  const std::size_t from = cuts.at((number + 1) % cuts.size()).stage;
  std::set<std::string> before;
  for (std::size_t i = 0; i < from; ++i) {
    before.insert(layout.line[i].parameters.begin(), layout.line[i].parameters.end());
  }
  const FreezePlan able = LayerFreezePolicy{}.train("*").resolve(policy);
  const double share = 0.1 + 0.8 * uniform(number, 1);
  LayerFreezePolicy rules;
  rules.freeze("*").train(kAlwaysTrained);
  std::uint64_t what = 100;
  for (const std::string& name : able.names(ParameterClass::trainable)) {
    const bool chosen = uniform(number, ++what) < share;
    if (chosen && !before.contains(name)) rules.train(name);
  }
  return rules;
}

TrainOptions random_options(std::uint64_t number, const fs::path& output) {
  TrainOptions options{.steps = kSteps,
                       .batch_size = 1,  // frozen stages behind a cut then see the rows that they see without one
                       .accumulation = 1 + pick(number, 2, 3),
                       .draws = 1 + pick(number, 3, 2),
                       .workers = 0,
                       .precision = number % kFreezes == 2 ? Precision::bf16 : Precision::fp32,
                       .device = at::Device(at::kCPU),
                       .optimizer = {.learning_rate = 1e-3, .weight_decay = 0.1},
                       .grad_clip_norm = 0.5,
                       .schedule = {.kind = ScheduleKind::constant, .warmup_steps = 1, .auto_scale = false},
                       .ema = {.enable = true},
                       .output = output,
                       .save_every = 0,
                       .tensorboard = false,
                       .quiet = true};
  return options;
}

struct Trained {
  std::shared_ptr<Policy> policy;
  FreezePlan plan;
};

class RandomFreezes : public testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] Trained train(std::uint64_t number, const TrainOptions& options) const {
    const std::shared_ptr<Policy> policy = base(GetParam(), data_);
    const FreezePlan plan = random_rules(*policy, number).resolve(*policy);
    Trainer trainer(policy, plan, options);
    trainer.fit(data_);
    EXPECT_TRUE(frozen_with_gradient(trainer.plan(), *policy->module()).empty());
    EXPECT_TRUE(modules_not_in_eval(trainer.plan(), *policy->module()).empty());
    return {.policy = policy, .plan = trainer.plan()};
  }

  /// As a run holds them before its first step.
  [[nodiscard]] Tensors held_at_first(const FreezePlan& plan, Precision precision) const {
    const std::shared_ptr<Policy> policy = base(GetParam(), data_);
    cast_parameters(plan, *policy->module(), precision);
    return tensors_of(*policy);
  }

  [[nodiscard]] static Tensors tensors_of(const Policy& policy) {
    Tensors tensors;
    for (const auto& item : policy.module()->named_parameters()) tensors[item.key()] = item.value().detach();
    return tensors;
  }

  LeRobotDataset data_ = dataset();
  test::TemporaryFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Types, RandomFreezes, testing::Values("smolvla", "pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(RandomFreezes, MoveNothingFrozenThroughDecayClippingAveragesAndAResume) {
  for (std::uint64_t number = 0; number < kFreezes; ++number) {
    SCOPED_TRACE(fmt::format("freeze {}", number));
    const fs::path run = folder_.path() / fmt::format("run{}", number);
    TrainOptions options = random_options(number, run);
    options.steps = kSteps / 2;
    static_cast<void>(train(number, options));
    options.steps = kSteps;
    options.resume = true;
    const Trained trained = train(number, options);

    const Tensors after = tensors_of(*trained.policy);
    for (const auto& [name, tensor] : held_at_first(trained.plan, options.precision)) {
      EXPECT_EQ(bitwise_equal(after.at(name), tensor), !trained.plan.trains(name)) << name;
    }
    const Checkpoint last = read_checkpoint(run / "checkpoints" / checkpoint_name(kSteps));
    for (const std::string& name : trained.plan.names(ParameterClass::frozen)) {
      EXPECT_FALSE(last.head.tensors.contains(name)) << name;
      EXPECT_FALSE(last.optimizer.contains("state/" + name + "/exp_avg")) << name;
      EXPECT_FALSE(last.ema.contains(name)) << name;
    }
    const VerifyReport report = verify_run(run, *base(GetParam(), data_)->module());
    EXPECT_TRUE(report.passed()) << report.text();
  }
}

TEST_P(RandomFreezes, TrainTheSameWeightsBitForBitWithEveryCacheTheyAllow) {
  std::set<CacheCut> seen;
  for (std::uint64_t number = 0; number < kFreezes; ++number) {
    TrainOptions options = random_options(number, {});
    options.prefix.batch_size = 1;
    const Trained plain = train(number, options);
    const Tensors expected = tensors_of(*plain.policy);
    for (const PrefixCut& cut : deepest_cuts(plain.policy->layout(), plain.plan)) {
      if (cut.kind == CacheCut::none) continue;
      SCOPED_TRACE(fmt::format("freeze {}, cache {}", number, cache_cut_name(cut.kind)));
      seen.insert(cut.kind);
      options.prefix.cache = cut.kind;
      options.prefix.store.folder = folder_.path() / fmt::format("cache{}", number);
      for (const char* visit : {"fills the cache", "finds everything in it"}) {
        for (const auto& [name, tensor] : tensors_of(*train(number, options).policy)) {
          EXPECT_TRUE(bitwise_equal(tensor, expected.at(name))) << visit << ": " << name;
        }
      }
    }
  }
  EXPECT_EQ(seen, (std::set<CacheCut>{CacheCut::vision, CacheCut::hidden, CacheCut::kv}));
}

}  // namespace
}  // namespace thaw::random_freezes_test
