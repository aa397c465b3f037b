#include "thaw/study/pick.h"

#include <gmock/gmock.h>

#include <cmath>

#include "study/studies.h"
#include "thaw/core/error.h"

namespace thaw::pick_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

SweepResult result(const std::string& freeze, std::uint64_t seed, double loss, std::int64_t parameters) {
  SweepResult each{.point = {.id = freeze + std::to_string(seed), .freeze = freeze, .seed = seed, .steps = 10},
                   .trainable_parameters = parameters};
  if (std::isfinite(loss)) each.held_out = EvaluationResult{.loss = loss};
  return each;
}

std::optional<Pick> pick_of(const std::vector<SweepResult>& results, SweepCost cost = SweepCost::parameters) {
  return pick(sweep_candidates(results, "loss", 10), cost, "loss");
}

TEST(Pick, MeanAndStandardErrorAreThoseOfTheSeeds) {
  const std::vector<SweepCandidate> all =
      sweep_candidates(std::vector{result("a", 1, 1.0, 5), result("a", 2, 2.0, 5), result("a", 3, 6.0, 5)}, "loss", 10);
  ASSERT_EQ(all.size(), 1U);
  EXPECT_DOUBLE_EQ(all[0].mean, 3.0);
  EXPECT_DOUBLE_EQ(*all[0].spread, std::sqrt(7.0 / 3.0));  // deviation sqrt(14 / 2), over sqrt(3)
  EXPECT_THAT(all[0].ids, ElementsAre("a1", "a2", "a3"));
}

TEST(Pick, TheSameFreezeOfAPrunedBaseIsAConfigurationOfItsOwn) {
  std::vector<SweepResult> results{result("a", 1, 1.0, 5), result("a", 2, 2.0, 3)};
  results[1].point.pruning = {.count = 2, .removed = {{"blocks", {1, 2}}}};
  const std::vector<SweepCandidate> all = sweep_candidates(results, "loss", 10);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].name(), "a");
  EXPECT_EQ(all[1].name(), "a with 2 pruned");
  const std::optional<Pick> chosen = pick(std::span(all).subspan(1), SweepCost::parameters, "loss");
  EXPECT_THAT(chosen->reason(), HasSubstr("a with 2 pruned at rate"));
  EXPECT_EQ(chosen->to_json()["picked"]["pruned"], 2);
}

TEST(Pick, TheCheapestWithinOneStandardErrorOfTheBestIsPicked) {
  const std::vector<SweepResult> results{result("far", 1, 3.0, 1),  result("far", 2, 3.0, 1),
                                         result("near", 1, 1.9, 2), result("near", 2, 1.9, 2),
                                         result("best", 1, 1.0, 9), result("best", 2, 2.0, 9)};
  const std::optional<Pick> chosen = pick_of(results);  // best: 1.5 with a standard error of 0.5
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->best.freeze, "best");
  EXPECT_DOUBLE_EQ(chosen->limit, 2.0);
  EXPECT_EQ(chosen->picked.freeze, "near");
  EXPECT_EQ(chosen->within, 2);
  EXPECT_THAT(chosen->reason(),
              testing::AllOf(HasSubstr("near at rate"), HasSubstr("over 2 seeds"), HasSubstr("= 1.5")));
}

TEST(Pick, ExactlyAtTheLimitCountsAndJustAboveDoesNot) {
  const auto picked = [](double loss) {
    return pick_of({result("cheap", 1, loss, 1), result("cheap", 2, loss, 1), result("best", 1, 1.0, 9),
                    result("best", 2, 2.0, 9)})
        ->picked.freeze;
  };
  EXPECT_EQ(picked(2.0), "cheap");
  EXPECT_EQ(picked(std::nextafter(2.0, 3.0)), "best");
}

TEST(Pick, WithOneSeedTheBestIsPickedAndThatIsSaid) {
  const std::optional<Pick> chosen = pick_of({result("cheap", 1, 1.1, 1), result("best", 1, 1.0, 9)});
  EXPECT_EQ(chosen->picked.freeze, "best");
  EXPECT_THAT(chosen->reason(), HasSubstr("One seed gives no standard error"));
}

TEST(Pick, AConfigurationWithAFailedSeedIsNeverPicked) {
  const std::optional<Pick> chosen =
      pick_of({result("broken", 1, 0.0, 1), result("broken", 2, std::nan(""), 1), result("sound", 1, 1.0, 9)});
  EXPECT_EQ(chosen->picked.freeze, "sound");
  EXPECT_EQ(pick_of({result("broken", 1, std::nan(""), 1)}), std::nullopt);
}

TEST(Pick, ShorterTrainingsDoNotCount) {
  SweepResult rung = result("short", 1, 0.0, 1);
  rung.point.steps = 5;
  EXPECT_EQ(pick_of({rung, result("full", 1, 1.0, 9)})->picked.freeze, "full");
}

TEST(Pick, TheCostDecidesAndOfEqualCostsTheSmallerError) {
  std::vector<SweepResult> results{result("a", 1, 1.0, 5), result("a", 2, 3.0, 5), result("b", 1, 1.5, 5),
                                   result("b", 2, 3.0, 5)};
  results[0].planned_peak_bytes = results[1].planned_peak_bytes = 20;
  results[2].planned_peak_bytes = results[3].planned_peak_bytes = 10;
  results[0].times.seconds = results[1].times.seconds = 1;
  results[2].times.seconds = results[3].times.seconds = 2;
  EXPECT_EQ(pick_of(results, SweepCost::parameters)->picked.freeze, "a");
  EXPECT_EQ(pick_of(results, SweepCost::memory)->picked.freeze, "b");
  EXPECT_EQ(pick_of(results, SweepCost::time)->picked.freeze, "a");
}

TEST(Pick, CostsAreParsedByName) {
  EXPECT_EQ(parse_sweep_cost("memory"), SweepCost::memory);
  EXPECT_THAT(toy::message_of<UsageError>([] { (void)parse_sweep_cost("money"); }),
              HasSubstr("parameters, memory or time, found 'money'"));
}

}  // namespace
}  // namespace thaw::pick_test
