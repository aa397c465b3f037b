// Memory of a step, against numbers worked out by hand.
#include "thaw/freeze/memory_plan.h"

#include "sized_layout.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::memory_plan_test {
namespace {

using test::message_of;
using test::sized_layout;
using testing::HasSubstr;

FreezePlan plan_of(const ModelLayout& layout, const std::string& rules) {
  return (rules.empty() ? LayerFreezePolicy{} : LayerFreezePolicy::parse(rules)).resolve(layout);
}

MemoryPlan memory_of(const std::string& rules, CacheCut cut, const StepShape& shape,
                     const MemoryOptions& options = {}) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = plan_of(layout, rules);
  return plan_memory(layout, plan, deepest_cut(layout, plan, cut), shape, options);
}

TEST(MemoryPlan, WeightsGradientsMomentsAndAveragesAreCountedByElement) {
  const MemoryPlan memory = memory_of("", CacheCut::none, {.batch_size = 1}, {.ema = true});
  EXPECT_EQ(memory.trainable_weights, 4 * 32);
  EXPECT_EQ(memory.frozen_weights, 4 * (3 * 16));
  EXPECT_EQ(memory.released_weights, 4 * 8) << "what no stage uses";
  EXPECT_EQ(memory.gradients, 4 * 32);
  EXPECT_EQ(memory.moments, 8 * 32);
  EXPECT_EQ(memory.ema, 4 * 32);
  EXPECT_EQ(memory.resident(), 4 * 48 + 4 * 32 + 8 * 32 + 4 * 32);
}

TEST(MemoryPlan, FrozenMatricesTakeTheComputeTypeAndWhatTrainsStaysFloat32) {
  const MemoryPlan memory = memory_of("", CacheCut::none, {.batch_size = 1}, {.compute = at::kBFloat16});
  EXPECT_EQ(memory.frozen_weights, 2 * 48);
  EXPECT_EQ(memory.trainable_weights, 4 * 32);
}

TEST(MemoryPlan, MatricesThatTrainAreCopiedIntoAShortComputeTypeForAStep) {
  EXPECT_EQ(memory_of("", CacheCut::none, {}).copies, 0);
  const MemoryPlan half = memory_of("", CacheCut::kv, {}, {.compute = at::kBFloat16});
  EXPECT_EQ(half.copies, 2 * 32);
  // weights and moments, entries ahead, noise, activations but for y, copies, gradient and workspace of a head block
  EXPECT_EQ(half.peak, (128 + 256) + half.read_ahead + half.inputs + half.activations - 8 * 8 + 64 + 64 + 8 * 20);
  ModelLayout layout = sized_layout();
  for (ParameterInfo& parameter : layout.parameters) {
    if (parameter.name == "head.1.weight") parameter.groups = {"embeddings"};
  }
  const FreezePlan plan = plan_of(layout, "");
  EXPECT_EQ(plan_memory(layout, plan, {}, {}, {.compute = at::kBFloat16}).copies, 2 * 16) << "rows are looked up";
}

TEST(MemoryPlan, WhileWeightsAreCastTheSmallestFirstOneOfThemIsThereTwice) {
  ModelLayout layout = sized_layout();
  layout.parameters[0].shape = {4, 400};
  const FreezePlan plan = plan_of(layout, "");
  const MemoryPlan memory = plan_memory(layout, plan, {}, {}, {.compute = at::kBFloat16});
  EXPECT_EQ(memory_phase_name(memory.peak_phase), "loading");
  // all but the large one have been halved when it is cast; what trains is float32 already
  EXPECT_EQ(memory.peak, 4 * 1600 + 2 * (2 * 16 + 8) + 4 * 32 + 2 * 1600);
}

TEST(MemoryPlan, AGradientInAShortTypeWaitsForThatOfAnotherStageWithTheSameWeight) {
  const auto peak = [](ModelLayout layout, at::ScalarType compute) {
    layout.line[3].bytes.workspace = {.fixed = 1000};
    const FreezePlan plan = plan_of(layout, "");
    const MemoryPlan memory =
        plan_memory(layout, plan, deepest_cut(layout, plan, CacheCut::kv), {.batch_size = 1}, {.compute = compute});
    EXPECT_EQ(memory.peak_stage, "head.0") << "where all gradients are there";
    return memory.peak;
  };
  ModelLayout shared = sized_layout();
  shared.line.back().parameters.push_back("head.0.weight");
  EXPECT_EQ(peak(shared, at::kBFloat16) - peak(sized_layout(), at::kBFloat16), 2 * 16);
  EXPECT_EQ(peak(shared, at::kFloat), peak(sized_layout(), at::kFloat)) << "there they are added where they are";
}

TEST(MemoryPlan, AFilledCacheLeavesOnlyTheWeightsThatStagesBehindItsCutUse) {
  const MemoryPlan vision = memory_of("", CacheCut::vision, {});
  EXPECT_EQ(vision.released_weights, 4 * (32 + 8)) << "the tower, and what no stage uses";
  EXPECT_EQ(vision.frozen_weights, 4 * 16);
  ModelLayout layout = sized_layout();
  layout.line.back().parameters.push_back("tower.1.weight");
  const FreezePlan plan = plan_of(layout, "");
  EXPECT_EQ(plan_memory(layout, plan, deepest_cut(layout, plan, CacheCut::vision), {}, {}).released_weights,
            4 * (16 + 8))
      << "a later stage uses tower.1 as well";
}

TEST(MemoryPlan, InputsAreWhatComesFromOutsideAndIsReadBehindTheCut) {
  EXPECT_EQ(memory_of("", CacheCut::none, {.batch_size = 2, .draws = 3}).inputs, 2 * (4 * 8 + 3 * 4 * 4))
      << "images are made for the samples that go through the tower";
  EXPECT_EQ(memory_of("tower=all", CacheCut::none, {.batch_size = 2, .draws = 3}).inputs,
            2 * (48 * 4 + 4 * 8 + 3 * 4 * 4));
  EXPECT_EQ(memory_of("", CacheCut::kv, {.batch_size = 2, .draws = 3}).inputs, 2 * 3 * 4 * 4);
}

TEST(MemoryPlan, PicturesAreReadAheadWhereAStageThatRunsReadsThem) {
  EXPECT_EQ(memory_of("", CacheCut::none, {.batch_size = 2}).read_ahead, 3 * 2 * 48 * 4);
  EXPECT_EQ(memory_of("", CacheCut::none, {.batch_size = 2}, {.compute = at::kBFloat16}).read_ahead, 3 * 2 * 48 * 4)
      << "pictures are float32";
  const auto peak = [](std::int64_t ahead) {
    return memory_of("", CacheCut::none, {.batch_size = 2}, {.batches_ahead = ahead}).peak;
  };
  EXPECT_EQ(peak(5) - peak(1), 4 * 2 * 48 * 4);
}

TEST(MemoryPlan, EntriesOfACacheAreReadAheadInsteadOfPictures) {
  const auto vision = [](std::int64_t ahead) {
    return memory_of("", CacheCut::vision, {.batch_size = 2}, {.entries_ahead = ahead});
  };
  EXPECT_EQ(vision(1).read_ahead, 2 * 16 * 4) << "those of the batch that is used are its prefix";
  EXPECT_EQ(vision(3).peak - vision(1).peak, 2 * 2 * 16 * 4);
}

TEST(MemoryPlan, GradientsTakeTheRoomThatActivationsLeave) {
  // Behind the last block lie its x and what both blocks saved, before the first the memory and what it saved.
  const auto cached = [](const MemoryPlan& memory) { return memory.resident() + memory.read_ahead + memory.inputs; };
  const MemoryPlan one = memory_of("", CacheCut::kv, {.batch_size = 1});
  EXPECT_EQ(one.peak_stage, "head.0");
  EXPECT_EQ(one.peak, cached(one) + (32 + 44) + 2 * 64 + 40);
  const MemoryPlan many = memory_of("", CacheCut::kv, {.batch_size = 8});
  EXPECT_EQ(many.peak_stage, "head.1");
  EXPECT_EQ(many.peak, cached(many) + 8 * (32 + 44 + 16 + 16) + 64 + 8 * 40);
}

TEST(MemoryPlan, WhatACacheHoldsInMemoryIsAddedToEveryPhase) {
  const double without = memory_of("", CacheCut::kv, {}).peak;
  EXPECT_EQ(memory_of("", CacheCut::kv, {}, {.cache_bytes = 1000}).peak, without + 1000);
}

TEST(MemoryPlan, WhatTheProcessTakesBesideTensorsIsAddedToEveryPhase) {
  for (const CacheCut cut : {CacheCut::none, CacheCut::kv}) {
    const MemoryPlan memory = memory_of("", cut, {}, {.process_bytes = 1000});
    EXPECT_EQ(memory.process, 1000);
    EXPECT_EQ(memory.peak, memory_of("", cut, {}).peak + 1000);
  }
}

TEST(MemoryPlan, ActivationsAreTheKeysAndWhatEachWalkedStageSaves) {
  // memory 32 bytes; x and y 16; head.0 saves 8 + 16 + 4 and 16 for its weight; head.1 16, nothing for its weight.
  const MemoryPlan memory = memory_of("", CacheCut::none, {.batch_size = 2});
  EXPECT_EQ(memory.prefix, 2 * 32);
  EXPECT_EQ(memory.activations, 2 * (32 + 16 + 16 + 28 + 16 + 16));
  const MemoryPlan draws = memory_of("", CacheCut::none, {.batch_size = 2, .draws = 3});
  EXPECT_EQ(draws.activations, 2 * (32 + 3 * 32 + (8 + 3 * 16 + 9 * 4) + 3 * 16 + 3 * 16));
}

TEST(MemoryPlan, WhatOnlyAGradientOfAFrozenWeightWouldNeedIsNotCounted) {
  const MemoryPlan memory = memory_of("tower=[0],freeze:head.0.weight", CacheCut::none, {.batch_size = 1});
  EXPECT_EQ(memory.stages.at(0).saved, 37) << "tower.0 trains";
  EXPECT_EQ(memory.stages.at(1).saved, 30) << "tower.1 does not";
  EXPECT_EQ(memory.stages.at(3).saved, 28) << "head.0 does not";
}

TEST(MemoryPlan, WhatAnAdapterThatIsNotThereWouldKeepIsNotCounted) {
  ModelLayout layout = sized_layout();
  layout.line[3].bytes.saved_for.push_back({.bytes = {.fixed = 1000}, .parameters = {"head.0.lora_A.weight"}});
  const FreezePlan plan = plan_of(layout, "");
  EXPECT_EQ(plan_memory(layout, plan, {}, {}, {}).activations, memory_of("", CacheCut::none, {}).activations);
}

TEST(MemoryPlan, AReplacedKeyCountsOnlyWhereBackwardReadsIt) {
  // Both versions of hidden (64 bytes each) live: tower.1 reads the first under grad.
  EXPECT_EQ(memory_of("tower=[0]", CacheCut::none, {.batch_size = 1}).activations,
            64 + 64 + 32 + 16 + 16 + 37 + 30 + 28 + 16 + 16);
}

TEST(MemoryPlan, CheckpointingKeepsKeysAlone) {
  const StepShape shape{.batch_size = 2, .checkpoint_activations = true};
  EXPECT_EQ(memory_of("", CacheCut::none, shape).activations, 2 * (32 + 16 + 16));
}

TEST(MemoryPlan, TheFrozenPrefixTakesItsWorkspaceForTheSamplesThatGoThroughItAtATime) {
  const auto workspace = [](std::int64_t prefix_batch) {
    const MemoryPlan memory = memory_of("", CacheCut::none, {.batch_size = 8, .prefix_batch = prefix_batch});
    return memory.stages.at(1).workspace;
  };
  EXPECT_EQ(workspace(1), 200);
  EXPECT_EQ(workspace(4), 800);
  EXPECT_EQ(workspace(100), 1600);
  EXPECT_EQ(memory_of("", CacheCut::vision, {.batch_size = 8}).stages.at(2).workspace, 8 * 20)
      << "behind a filled cache the whole batch goes through at once";
}

TEST(MemoryPlan, ThePeakIsSaidWithItsPhase) {
  const MemoryPlan small = memory_of("", CacheCut::none, {.batch_size = 1});
  EXPECT_EQ(memory_phase_name(small.peak_phase), "frozen prefix");
  EXPECT_EQ(small.peak_stage, "tower.1");
  // weights and moments, pictures ahead, inputs of the sample, hidden before and after, workspace
  EXPECT_EQ(small.peak, 4 * 48 + 4 * 32 + 8 * 32 + 3 * 48 * 4 + (48 * 4 + 4 * 8 + 4 * 4) + 2 * 64 + 200);
  const MemoryPlan cached = memory_of("", CacheCut::kv, {.batch_size = 1});
  EXPECT_EQ(memory_phase_name(cached.peak_phase), "backward");
  EXPECT_EQ(cached.peak_stage, "head.0");
  // the head's weights and moments, entries ahead, noise, memory and what head.0 saved, gradients, workspace
  EXPECT_EQ(cached.peak, (128 + 256) + 32 + 16 + (32 + 44) + 128 + 40);
  ModelLayout layout = sized_layout();
  layout.parameters[0].shape = {4, 400};
  const FreezePlan plan = plan_of(layout, "");
  const MemoryPlan large = plan_memory(layout, plan, deepest_cut(layout, plan, CacheCut::kv), {.batch_size = 1}, {});
  EXPECT_EQ(memory_phase_name(large.peak_phase), "loading") << "weights are read before they are released";
  EXPECT_EQ(large.peak, large.resident() + large.released_weights) << "and come back at the end";
  const PrefixCut cut = deepest_cut(layout, plan, CacheCut::kv);
  const MemoryPlan left = plan_memory(layout, plan, cut, {.batch_size = 1}, {.weights_return = false});
  EXPECT_EQ(left.peak, left.frozen_weights + left.trainable_weights + left.released_weights) << "or do not";
  const MemoryPlan cached_large =
      plan_memory(layout, plan, deepest_cut(layout, plan, CacheCut::kv), {.batch_size = 1}, {.cache_bytes = 1000});
  EXPECT_EQ(cached_large.peak, large.peak + 1000) << "and come back when the cache is full";
}

TEST(MemoryPlan, GradientsOfEarlierMicroBatchesAreThereDuringTheForwardPass) {
  const StepShape one{.batch_size = 1};
  const StepShape two{.batch_size = 1, .accumulation = 2};
  EXPECT_EQ(memory_of("", CacheCut::none, two).peak - memory_of("", CacheCut::none, one).peak, 4 * 32);
}

TEST(MemoryPlan, FreezingMoreNeverRaisesThePeak) {
  std::mt19937 random(7);
  const ModelLayout layout = sized_layout();
  const std::vector<std::string> names{"tower.0.weight", "tower.1.weight", "middle.weight", "head.0.weight"};
  for (int trial = 0; trial < 50; ++trial) {
    std::string rules = "head=1";
    std::string more = "head=1";
    for (const std::string& name : names) {
      const bool trains = random() % 2 == 0;
      const bool stays = random() % 2 == 0;
      rules += (trains ? ",train:" : ",freeze:") + name;
      more += (trains && stays ? ",train:" : ",freeze:") + name;
    }
    const StepShape shape{.batch_size = 1 + static_cast<std::int64_t>(random() % 4)};
    const auto peak = [&](const std::string& text) {
      const FreezePlan plan = plan_of(layout, text);
      return plan_memory(layout, plan, {}, shape, {}).peak;
    };
    EXPECT_LE(peak(more), peak(rules)) << rules << " / " << more;
  }
}

TEST(MemoryPlan, ALargerBatchNeverNeedsLess) {
  double before = 0;
  for (std::int64_t batch = 1; batch < 40; ++batch) {
    const double peak = memory_of("tower=1", CacheCut::none, {.batch_size = batch}).peak;
    EXPECT_GT(peak, before);
    before = peak;
  }
}

TEST(MemoryPlan, TheCacheOfASampleIsItsKeysInTheirStorage) {
  ModelLayout layout = sized_layout();
  layout.keys[1].width = 4;  // hidden: 4 rows of 4
  layout.keys.push_back({.name = "mask", .elements = 16, .width = 16, .dtype = at::kBool});
  layout.line[1].writes.push_back("mask");
  layout.line[2].reads.push_back("mask");
  const PrefixCut cut = deepest_cut(layout, plan_of(layout, ""), CacheCut::vision);
  EXPECT_EQ(cache_bytes_per_sample(layout, cut, CacheStorage::exact, at::kFloat), 64 + 16);
  EXPECT_EQ(cache_bytes_per_sample(layout, cut, CacheStorage::exact, at::kBFloat16), 32 + 16);
  EXPECT_EQ(cache_bytes_per_sample(layout, cut, CacheStorage::bf16, at::kFloat), 32 + 16);
  EXPECT_EQ(cache_bytes_per_sample(layout, cut, CacheStorage::int8, at::kFloat), 16 + 4 * 4 + 16);
  EXPECT_EQ(cache_bytes_per_sample(layout, {}, CacheStorage::exact, at::kFloat), 0);
}

TEST(MemoryPlan, AKeyWithoutASizeIsNamed) {
  ModelLayout layout = sized_layout();
  layout.keys.erase(layout.keys.begin() + 1);
  const FreezePlan plan = plan_of(layout, "");
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(plan_memory(layout, plan, {}, {}, {})); }),
              HasSubstr("memory of key 'hidden'"));
}

TEST(MemoryPlan, JsonHoldsThePartsOfThePeak) {
  const Json json = memory_of("", CacheCut::vision, {.batch_size = 2}).to_json();
  EXPECT_EQ(json["released_weights"], 160);
  EXPECT_EQ(json["gradients"], 128);
  EXPECT_EQ(json["stages"].size(), 5U);
  EXPECT_EQ(json["stages"][3]["name"], "head.0");
  EXPECT_EQ(json["stages"][3]["saved"], 2 * 44);
}

}  // namespace
}  // namespace thaw::memory_plan_test
