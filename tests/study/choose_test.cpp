// CLP's choice against a restatement in Python on 1,000 rows of similarities (make_measures.py), and by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/study/prune.h"

namespace thaw::choose_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Blocks = std::vector<std::int64_t>;

const double kNoNumber = std::numeric_limits<double>::quiet_NaN();

const Json& cases() {
  static const Json kCases = read_json(std::string(thaw::test::source_dir()) + "/tests/study/measures/choices.json");
  return kCases;
}

ClpOptions options_of(const Json& example) {
  return {.remove = example["remove"].get<std::int64_t>(),
          .threshold = example["threshold"].get<double>(),
          .period = example["period"].get<std::int64_t>(),
          .first_block_anchors = example["first_block_anchors"].get<bool>()};
}

std::string error_of(const std::vector<double>& similarity, const ClpOptions& options) {
  try {
    static_cast<void>(choose_clp(similarity, options));
  } catch (const UsageError& error) {
    return error.what();
  }
  return "chosen";
}

TEST(ChooseClp, EqualsTheRestatementOnAThousandRowsOfSimilarities) {
  ASSERT_EQ(cases()["clp"].size(), 1000U);
  std::size_t impossible = 0;
  for (const Json& example : cases()["clp"]) {
    const auto scores = example["scores"].get<std::vector<double>>();
    if (example["choice"].is_null()) {
      ++impossible;
      EXPECT_THAT(error_of(scores, options_of(example)), HasSubstr("CLP: expected at most")) << example.dump();
      continue;
    }
    const ClpChoice choice = choose_clp(scores, options_of(example));
    EXPECT_EQ(choice.removed, example["choice"]["removed"].get<Blocks>()) << example.dump();
    EXPECT_EQ(choice.candidates, example["choice"]["candidates"].get<Blocks>()) << example.dump();
    EXPECT_EQ(choice.threshold, example["choice"]["threshold"].get<double>()) << example.dump();
  }
  EXPECT_GT(impossible, 0U);
}

TEST(ChooseLeast, EqualsTheRestatementForEveryPeriod) {
  for (const Json& example : cases()["least"]) {
    const auto scores = example["scores"].get<std::vector<double>>();
    const Blocks removed =
        choose_least(scores, example["remove"].get<std::int64_t>(), example["period"].get<std::int64_t>());
    EXPECT_EQ(removed, example["removed"].get<Blocks>()) << example.dump();
  }
}

TEST(ChooseClp, KeepsTheFirstOfEachRunAndTakesTheMostAlikeOfTheRest) {
  const std::vector<double> scores{kNoNumber, 0.5, 0.97, 0.99, 0.98, 0.4, 0.96, 0.995};
  const ClpChoice choice = choose_clp(scores, {.remove = 2, .threshold = 0.95});
  EXPECT_THAT(choice.runs, ElementsAre(Blocks{2, 3, 4}, Blocks{6, 7}));
  EXPECT_THAT(choice.candidates, ElementsAre(3, 4, 7));
  EXPECT_THAT(choice.removed, ElementsAre(3, 7));
  EXPECT_EQ(choice.threshold, 0.95);
}

TEST(ChooseClp, ASingleBlockAboveTheThresholdIsNoRun) {
  const std::vector<double> scores{kNoNumber, 0.2, 0.99, 0.3, 0.4};
  const ClpChoice choice = choose_clp(scores, {.remove = 1, .threshold = 0.95});
  EXPECT_EQ(choice.threshold, 0.3);  // lowered until block 3 stands beside block 2
  EXPECT_THAT(choice.removed, ElementsAre(4));
}

TEST(ChooseClp, FirstBlockBeginsTheRunOfBlockOneUnlessTold) {
  const std::vector<double> scores{kNoNumber, 0.99, 0.98, 0.1};
  EXPECT_THAT(choose_clp(scores, {.remove = 1}).removed, ElementsAre(1));
  EXPECT_THAT(choose_clp(scores, {.remove = 1, .first_block_anchors = false}).removed, ElementsAre(2));
}

TEST(ChooseClp, WithAPeriodTakesRunsThatKeepIt) {
  const std::vector<double> scores{kNoNumber, 0.99, 0.96, 0.97, 0.98, 0.96, 0.96, 0.96};
  EXPECT_THAT(choose_clp(scores, {.remove = 2}).removed, ElementsAre(1, 4));
  EXPECT_THAT(choose_clp(scores, {.remove = 2, .period = 2}).removed, ElementsAre(1, 2));
}

TEST(ChooseClp, BlockWithoutAScoreStays) {
  const std::vector<double> scores{kNoNumber, 0.9, kNoNumber, 0.8};
  EXPECT_THAT(choose_clp(scores, {.remove = 1}).removed, ElementsAre(1));
  EXPECT_THAT(error_of(scores, {.remove = 2}), HasSubstr("at most 1 blocks to remove: the first of a run stays"));
}

TEST(ChooseClp, MoreThanThereAreThrows) {
  EXPECT_THAT(error_of({kNoNumber, 0.9}, {.remove = 2}), HasSubstr("blocks to remove: expected 0..1, found 2"));
}

TEST(ChooseLeast, BlockWithoutAMeasureStays) {
  EXPECT_THAT(choose_least(std::vector<double>{0.3, kNoNumber, 0.1, 0.2}, 2), ElementsAre(2, 3));
  EXPECT_THROW(static_cast<void>(choose_least(std::vector<double>{0.3, kNoNumber}, 1, 2)), UsageError);
  EXPECT_THAT(choose_least(std::vector<double>{0.3, 0.1}, 0), IsEmpty());
}

ModelLayout layout_of_type(const std::string& type, const std::map<std::string, std::int64_t>& blocks) {
  ModelLayout layout{.type = type};
  for (const auto& [name, count] : blocks) layout.stacks.push_back({.name = name, .prefix = name, .blocks = count});
  return layout;
}

TEST(PruningPresets, LeaveAsManyBlocksAsThePublishedTableSays) {
  const std::map<std::string, std::map<std::string, std::size_t>> left{
      {"clp-smolvla", {{"language", 10}, {"expert", 10}}},
      {"clp-pi0", {{"language", 12}, {"expert", 12}}},
      {"clp-groot-n1.5", {{"language", 5}, {"vl_self_attention", 3}, {"dit", 8}}}};
  for (const auto& [name, stacks] : left) {
    const auto preset = std::find_if(pruning_presets().begin(), pruning_presets().end(),
                                     [wanted = name](const PruningPreset& one) { return one.name == wanted; });
    ASSERT_NE(preset, pruning_presets().end()) << name;
    for (const auto& [stack, count] : stacks) {
      EXPECT_EQ(left_over(preset->blocks.at(stack), preset->removed.at(stack)).size(), count) << name << ' ' << stack;
    }
  }
}

TEST(PruningPresets, KeepTheirModelsPeriodsAndAreValidRemovals) {
  for (const PruningPreset& preset : pruning_presets()) {
    ModelLayout layout = layout_of_type(preset.policy_type, preset.blocks);
    for (BlockStack& stack : layout.stacks) {
      const bool alternates = stack.name == "dit" || preset.policy_type == "smolvla";
      if (alternates) stack.period = 2;
      if (stack.name == "expert" || layout.stacks.size() == 2) stack.joined = "depth";
    }
    EXPECT_NO_THROW(check_removal(layout, preset_removal(preset.name, layout))) << preset.name;
  }
}

TEST(PruningPresets, UnknownNameAndAnotherModelThrow) {
  const ModelLayout shallow = layout_of_type("smolvla", {{"language", 4}, {"expert", 4}});
  try {
    static_cast<void>(preset_removal("clp-smolvl", shallow));
    FAIL() << "taken";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("Did you mean 'clp-smolvla'"));
  }
  try {
    static_cast<void>(preset_removal("clp-smolvla", shallow));
    FAIL() << "taken";
  } catch (const MismatchError& error) {
    EXPECT_THAT(error.what(), HasSubstr("16 blocks in stack 'expert', found 4"));
  }
  EXPECT_THROW(static_cast<void>(preset_removal("clp-pi0", shallow)), MismatchError);
}

}  // namespace
}  // namespace thaw::choose_test
