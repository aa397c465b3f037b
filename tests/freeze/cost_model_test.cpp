// Operations of a step, against numbers worked out by hand.
#include "thaw/freeze/cost_model.h"

#include "sized_layout.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::cost_model_test {
namespace {

using test::message_of;
using test::sized_layout;
using testing::HasSubstr;

FreezePlan plan_of(const std::string& rules) {
  return (rules.empty() ? LayerFreezePolicy{} : LayerFreezePolicy::parse(rules)).resolve(sized_layout());
}

const StageCost& stage(const StepCost& cost, const std::string& name) {
  for (const StageCost& each : cost.stages) {
    if (each.name == name) return each;
  }
  throw std::out_of_range(name);
}

StepCost cost_of(const std::string& rules, CacheCut cut, const StepShape& shape) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = plan_of(rules);
  return step_cost(layout, plan, deepest_cut(layout, plan, cut), shape);
}

TEST(CostModel, FrozenStagesCountOnceFrozenOnesBehindTheBoundaryTwiceAndTrainedOnesThrice) {
  const StepCost cost = cost_of("tower=[0],head=1", CacheCut::none, {.batch_size = 1});
  EXPECT_EQ(stage(cost, "tower.0").flops(), 200) << "trains, but its input needs no gradient";
  EXPECT_EQ(stage(cost, "tower.1").flops(), 200) << "frozen behind the boundary";
  EXPECT_EQ(stage(cost, "middle").flops(), 100);
  EXPECT_EQ(stage(cost, "head.1").flops(), 60) << "trains behind the boundary";
  const StepCost frozen = cost_of("head=1", CacheCut::none, {.batch_size = 1});
  EXPECT_EQ(stage(frozen, "tower.0").flops(), 100);
  EXPECT_EQ(stage(frozen, "head.0").flops(), 30) << "before the boundary";
  EXPECT_EQ(stage(frozen, "head.1").flops(), 40);
}

TEST(CostModel, AStepIsAllSamplesOfAllItsMicroBatches) {
  const StepCost one = cost_of("", CacheCut::none, {.batch_size = 1});
  const StepCost many = cost_of("", CacheCut::none, {.batch_size = 3, .accumulation = 5});
  EXPECT_EQ(many.flops(), 15 * one.flops());
  EXPECT_EQ(one.forward_flops(), 300);
  EXPECT_EQ(one.backward_flops(), 30 + 2 * 20) << "head.0 has no input that needs a gradient";
}

TEST(CostModel, DrawsRepeatTheStagesThatReadThemAloneAndTheirPairsBySquare) {
  EXPECT_EQ(first_draw_stage(sized_layout()), 3U);
  const StepCost cost = cost_of("", CacheCut::none, {.batch_size = 1, .draws = 4});
  EXPECT_EQ(stage(cost, "middle").forward_flops, 50);
  EXPECT_EQ(stage(cost, "head.0").forward_flops, 20 * 4 + 10 * 16);
  EXPECT_EQ(stage(cost, "head.0").backward_flops, 20 * 4 + 10 * 16);
  EXPECT_EQ(stage(cost, "head.1").forward_flops, 20 * 4);
}

TEST(CostModel, StagesBeforeAFilledCutDoNotRun) {
  const StepCost cost = cost_of("", CacheCut::vision, {.batch_size = 2});
  EXPECT_FALSE(stage(cost, "tower.1").runs);
  EXPECT_EQ(stage(cost, "tower.0").flops() + stage(cost, "tower.1").flops(), 0);
  EXPECT_TRUE(stage(cost, "middle").runs);
  EXPECT_EQ(cost.forward_flops(), 2 * (50 + 30 + 20));
}

TEST(CostModel, CheckpointingRunsWhatBackwardWalksTwiceForward) {
  const StepCost cost = cost_of("", CacheCut::none, {.batch_size = 1, .checkpoint_activations = true});
  EXPECT_EQ(stage(cost, "middle").forward_flops, 50);
  EXPECT_EQ(stage(cost, "head.0").forward_flops, 60);
  EXPECT_EQ(stage(cost, "head.0").backward_flops, 30);
}

TEST(CostModel, ADeeperCutNeverCostsMore) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = plan_of("");
  double before = std::numeric_limits<double>::infinity();
  for (const PrefixCut& cut : possible_cuts(layout, plan)) {
    const double flops = step_cost(layout, plan, cut, {}).flops();
    EXPECT_LT(flops, before) << cut.stage;
    before = flops;
  }
}

TEST(CostModel, AShapeWithoutSamplesIsRefusedByName) {
  EXPECT_THAT(message_of<UsageError>([] { StepShape{.batch_size = 0}.validate(); }),
              HasSubstr("StepShape.batch_size: expected at least 1, found 0"));
  EXPECT_THAT(message_of<UsageError>([] { StepShape{.draws = -2}.validate(); }), HasSubstr("StepShape.draws"));
}

TEST(CostModel, JsonHoldsEveryStage) {
  const Json json = cost_of("", CacheCut::vision, {.batch_size = 2}).to_json();
  EXPECT_EQ(json["forward_flops"], 200);
  EXPECT_EQ(json["optimizer_elements"], 32);
  ASSERT_EQ(json["stages"].size(), 5U);
  EXPECT_EQ(json["stages"][0],
            (Json{{"name", "tower.0"}, {"runs", false}, {"forward_flops", 0.0}, {"backward_flops", 0.0}}));
}

}  // namespace
}  // namespace thaw::cost_model_test
