#include "thaw/study/sweep_grid.h"

#include <gmock/gmock.h>

#include "study/studies.h"
#include "thaw/core/error.h"
#include "thaw/freeze/block_stacks.h"

namespace thaw::sweep_grid_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::message_of;

class SweepGridTest : public testing::Test {
 protected:
  std::vector<SweepFreeze> freezes(const SweepGrid& grid) {
    return sweep_freezes(grid, layout_of(*model_),
                         [this](const LayerFreezePolicy& rules) { return rules.resolve(*model_); });
  }
  std::vector<std::string> labels(const SweepGrid& grid) {
    std::vector<std::string> result;
    for (const SweepFreeze& freeze : freezes(grid)) result.push_back(freeze.label);
    return result;
  }

  toy::Model model_ = toy::sweep_model();
  SweepGrid grid_ = toy::small_grid();
};

TEST_F(SweepGridTest, AllMeansTheBlocksThatCanLearnAndIsNotTrainedTwiceBesideTheirNumber) {
  grid_.stacks = {{"blocks", {0, 4, kAllBlocks}}};
  EXPECT_THAT(labels(grid_), ElementsAre("blocks=0", "blocks=4"));
}

TEST_F(SweepGridTest, EachCountTrainsThatManyOfTheLastBlocks) {
  const std::vector<SweepFreeze> all = freezes(grid_);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_THAT(all[0].plan.stacks.at(0).trainable_blocks, ElementsAre());
  EXPECT_THAT(all[1].plan.stacks.at(0).trainable_blocks, ElementsAre(3));
  EXPECT_THAT(all[2].plan.stacks.at(0).trainable_blocks, ElementsAre(2, 3));
  EXPECT_EQ(all[2].blocks.at("blocks"), 2);
}

TEST_F(SweepGridTest, ExplicitRulesComeOnTopOfTheBaseAndEqualFreezesCountOnce) {
  grid_.rules = {"blocks=[0]", "blocks=[2,3]"};  // the latter is blocks=2
  EXPECT_THAT(labels(grid_), ElementsAre("blocks=0", "blocks=1", "blocks=2", "blocks=[0]"));
}

struct TwoStacks : torch::nn::Module {
  TwoStacks() {
    register_module("eyes", toy::sweep_model());
    register_module("hand", toy::sweep_model());
  }
};

TEST_F(SweepGridTest, OfSeveralStacksEveryCombinationIsAFreeze) {
  const TwoStacks both;
  const SweepGrid grid{.stacks = {{"eyes", {1, 2}}, {"hand", {3, kAllBlocks}}}, .learning_rates = {1.0}};
  std::vector<std::string> found;
  for (const SweepFreeze& freeze :
       sweep_freezes(grid, layout_of(both), [&both](const LayerFreezePolicy& rules) { return rules.resolve(both); })) {
    found.push_back(freeze.label);
  }
  EXPECT_THAT(found, ElementsAre("eyes=1,hand=3", "eyes=1,hand=4", "eyes=2,hand=3", "eyes=2,hand=4"));
}

TEST_F(SweepGridTest, AStackThatIsNotThereIsRefusedWithTheNearestNames) {
  grid_.stacks = {{"block", {1}}};
  EXPECT_THAT(message_of<UsageError>([this] { freezes(grid_); }), HasSubstr("Did you mean 'blocks'?"));
}

TEST_F(SweepGridTest, MoreBlocksThanCanLearnAreRefusedWithTheirNumber) {
  grid_.stacks = {{"blocks", {1, 5}}};
  EXPECT_THAT(message_of<UsageError>([this] { freezes(grid_); }),
              HasSubstr("expected at most 4, the blocks of 'blocks' that can learn, found 5"));
}

TEST_F(SweepGridTest, AnEmptyGridIsRefusedWithWhatToGive) {
  grid_.stacks.clear();
  EXPECT_THAT(message_of<UsageError>([this] { freezes(grid_); }), HasSubstr("found an empty grid. Name a stack"));
}

TEST_F(SweepGridTest, ListsThatAreEmptyOrHoldAValueTwiceOrOutOfRangeAreRefusedByName) {
  SweepGrid no_seed = grid_;
  no_seed.seeds.clear();
  EXPECT_THAT(message_of<UsageError>([&] { no_seed.validate(); }), HasSubstr("SweepGrid.seeds: expected at least one"));
  SweepGrid twice = grid_;
  twice.learning_rates = {1e-3, 1e-3};
  EXPECT_THAT(message_of<UsageError>([&] { twice.validate(); }), HasSubstr("SweepGrid.learning_rates"));
  SweepGrid negative = grid_;
  negative.learning_rates = {-1.0};
  EXPECT_THAT(message_of<UsageError>([&] { negative.validate(); }), HasSubstr("a positive number, found -1"));
  SweepGrid no_blocks = grid_;
  no_blocks.stacks = {{"blocks", {}}};
  EXPECT_THAT(message_of<UsageError>([&] { no_blocks.validate(); }), HasSubstr("SweepGrid.stacks.blocks"));
}

TEST_F(SweepGridTest, AFreezeThatTrainsNothingIsRefusedBeforeAnythingRuns) {
  grid_.base = LayerFreezePolicy{}.freeze("*");
  EXPECT_THAT(message_of<UsageError>([this] { freezes(grid_); }), HasSubstr("trains at least one tensor, found none"));
}

TEST_F(SweepGridTest, AnIdChangesWithEverythingThatDefinesATrainingAndWithNothingElse) {
  const std::vector<SweepFreeze> all = freezes(grid_);
  const SweepTraining training{.learning_rate = 1e-3, .draws = 1, .seed = 5, .steps = 10};
  const auto id = [](const SweepFreeze& freeze, const SweepTraining& each, SweepReason reason,
                     const std::string& setting) { return sweep_point(freeze, each, reason, setting).id; };
  const std::string first = id(all[0], training, SweepReason::full, "s");
  EXPECT_EQ(first.size(), 12U);
  EXPECT_EQ(first, id(all[0], training, SweepReason::rung, "s"));
  EXPECT_NE(first, id(all[1], training, SweepReason::full, "s"));
  EXPECT_NE(first, id(all[0], training, SweepReason::full, "t"));
  for (const SweepTraining& other : {SweepTraining{2e-3, 1, 5, 10}, SweepTraining{1e-3, 2, 5, 10},
                                     SweepTraining{1e-3, 1, 6, 10}, SweepTraining{1e-3, 1, 5, 11}}) {
    EXPECT_NE(first, id(all[0], other, SweepReason::full, "s"));
  }
}

TEST_F(SweepGridTest, AFreezeOfABaseWithItsOwnSettingHasTheIdsOfASweepOfThatBase) {
  SweepFreeze pruned = freezes(grid_)[0];
  const SweepTraining training{.learning_rate = 1e-3, .draws = 1, .seed = 5, .steps = 10};
  const std::string alone = sweep_point(pruned, training, SweepReason::full, "its own").id;
  pruned.pruning = {.count = 1, .removed = {{"blocks", {2}}}};
  pruned.setting = "its own";
  EXPECT_EQ(sweep_point(pruned, training, SweepReason::full, "of the sweep").id, alone);
}

TEST_F(SweepGridTest, APointOfAPrunedBaseSaysWhatWasRemovedAndOneOfAWholeBaseSaysNothing) {
  SweepFreeze freeze = freezes(grid_)[1];
  const SweepTraining training{.learning_rate = 0.1, .draws = 1, .seed = 3, .steps = 4};
  const Json whole = sweep_point(freeze, training, SweepReason::full, "s").to_json();
  EXPECT_FALSE(whole.contains("pruned") || whole.contains("removed"));
  freeze.pruning = {.count = 2, .removed = {{"blocks", {1, 2}}, {"other", {1, 2}}}};
  const SweepPoint point = sweep_point(freeze, training, SweepReason::full, "s");
  EXPECT_EQ(point.name(), "blocks=1 with 2 pruned");
  const Json json = parse_json(point.to_json().dump(), "test");
  EXPECT_EQ(json["removed"]["other"], Json::array({1, 2}));
  EXPECT_EQ(SweepPoint::from_json(json, "test").pruning, freeze.pruning);
}

TEST_F(SweepGridTest, APointComesBackFromItsJson) {
  const SweepPoint point =
      sweep_point(freezes(grid_)[1], {.learning_rate = 0.1, .draws = 2, .seed = 3, .steps = 4}, SweepReason::rung, "s");
  const SweepPoint back = SweepPoint::from_json(parse_json(point.to_json().dump(), "test"), "test");
  EXPECT_EQ(back.to_json(), point.to_json());
  Json damaged = point.to_json();
  damaged["why"] = "because";
  EXPECT_THAT(message_of<FormatError>([&] { (void)SweepPoint::from_json(damaged, "line 3"); }), HasSubstr("line 3"));
}

}  // namespace
}  // namespace thaw::sweep_grid_test
