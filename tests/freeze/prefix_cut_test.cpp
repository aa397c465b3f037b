// Which cuts a plan allows and what is kept there.
#include "thaw/freeze/prefix_cut.h"

#include "sized_layout.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::prefix_cut_test {
namespace {

using test::message_of;
using test::sized_layout;
using testing::ElementsAre;
using testing::HasSubstr;

FreezePlan plan_of(const std::string& rules) { return LayerFreezePolicy::parse(rules).resolve(sized_layout()); }

std::vector<std::size_t> stages(const std::vector<PrefixCut>& cuts) {
  std::vector<std::size_t> found;
  for (const PrefixCut& cut : cuts) found.push_back(cut.stage);
  return found;
}

TEST(PrefixCut, EveryNamedPlaceBeforeTheBoundaryIsPossible) {
  EXPECT_THAT(stages(possible_cuts(sized_layout(), plan_of("head=all"))), ElementsAre(0U, 2U, 3U));
  EXPECT_THAT(stages(possible_cuts(sized_layout(), plan_of("train:middle.weight"))), ElementsAre(0U, 2U));
  EXPECT_THAT(stages(possible_cuts(sized_layout(), plan_of("tower=1"))), ElementsAre(0U));
}

TEST(PrefixCut, KeepsWhatLaterStagesReadOfEarlierOnesAndOfTheImages) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = plan_of("head=all");
  EXPECT_THAT(deepest_cut(layout, plan, CacheCut::vision).keys, ElementsAre("hidden"));
  EXPECT_THAT(deepest_cut(layout, plan, CacheCut::kv).keys, ElementsAre("memory"));
  EXPECT_TRUE(deepest_cut(layout, plan, CacheCut::none).keys.empty());
}

TEST(PrefixCut, OfOneKindOnlyTheDeepestIsTaken) {
  ModelLayout layout = sized_layout();
  layout.line[0].cut = "vision";
  const FreezePlan plan = LayerFreezePolicy::parse("head=all").resolve(layout);
  EXPECT_THAT(stages(possible_cuts(layout, plan)), ElementsAre(0U, 1U, 2U, 3U));
  EXPECT_THAT(stages(deepest_cuts(layout, plan)), ElementsAre(0U, 2U, 3U));
  const FreezePlan upper = LayerFreezePolicy::parse("tower=1,head=all").resolve(layout);
  EXPECT_EQ(deepest_cut(layout, upper, CacheCut::vision).stage, 1U);
}

TEST(PrefixCut, WhatThePlanTrainsTooEarlyForIsRefusedWithWhatItAllows) {
  const std::string message = message_of<UsageError>(
      [] { static_cast<void>(deepest_cut(sized_layout(), plan_of("train:middle.weight"), CacheCut::kv)); });
  EXPECT_THAT(message, HasSubstr("kv"));
  EXPECT_THAT(message, HasSubstr("middle"));
  EXPECT_THAT(message, HasSubstr("vision"));
  EXPECT_THAT(message_of<UsageError>(
                  [] { static_cast<void>(deepest_cut(sized_layout(), plan_of("head=all"), CacheCut::automatic)); }),
              HasSubstr("choose_cut"));
}

}  // namespace
}  // namespace thaw::prefix_cut_test
