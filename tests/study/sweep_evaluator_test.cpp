#include "thaw/study/sweep_evaluator.h"

#include <gmock/gmock.h>

#include <chrono>

#include "study/studies.h"

namespace thaw::sweep_evaluator_test {
namespace {

using testing::HasSubstr;

SweepResult asked(const std::string& command, double seconds = 30.0) {
  SweepResult result{.point = {.id = "abc", .freeze = "blocks=1"}};
  EXPECT_TRUE(evaluate_point({.command = command, .seconds = seconds}, "/heads/abc", {}, result));
  return result;
}

TEST(SweepEvaluator, TheObjectThatItPrintsBelongsToThePoint) {
  const SweepResult result =
      asked(R"(printf '{"success": 0.5, "head": "%s", "id": "%s"}' "$THAW_HEAD" "$THAW_POINT_ID")");
  EXPECT_FALSE(result.failed()) << result.error;
  EXPECT_EQ(result.evaluator, (Json{{"success", 0.5}, {"head", "/heads/abc/head.safetensors"}, {"id", "abc"}}));
}

TEST(SweepEvaluator, ItIsGivenTheLineOfThePointAndWhatTheCallerAdds) {
  SweepResult result{.point = {.id = "abc", .freeze = "blocks=1"}};
  const SweepEvaluator evaluator{.command = R"(test "$MORE" = yes && printf '%s' "$THAW_POINT")",
                                 .environment = {{"MORE", "yes"}}};
  ASSERT_TRUE(evaluate_point(evaluator, "heads", {}, result));
  EXPECT_EQ(result.evaluator["freeze"], "blocks=1") << result.error;
}

TEST(SweepEvaluator, WhatAPointHasOfItsOwnTakesThePlaceOfWhatAllHave) {
  SweepResult result{.point = {.id = "abc", .freeze = "blocks=1"}};
  const SweepEvaluator evaluator{.command = R"(printf '{"base": "%s"}' "$BASE")",
                                 .environment = {{"BASE", "all"}},
                                 .environment_of = [](const SweepPoint& point) {
                                   return std::map<std::string, std::string>{{"BASE", point.id}};
                                 }};
  ASSERT_TRUE(evaluate_point(evaluator, "heads", {}, result));
  EXPECT_EQ(result.evaluator["base"], "abc") << result.error;
}

TEST(SweepEvaluator, OneThatDiesFailsThePointWithItsExitCodeOrSignal) {
  EXPECT_EQ(asked("exit 3").error, "the evaluator ended with exit code 3");
  EXPECT_THAT(asked("kill -SEGV $$").error, HasSubstr("the evaluator was ended by signal 11"));
}

TEST(SweepEvaluator, OneThatHangsIsKilledWithAllItStarted) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(asked("sleep 600 & sleep 600", 0.2).error, "the evaluator did not end in time and was killed");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(300));
}

TEST(SweepEvaluator, WhatItLeavesRunningDoesNotHoldUpItsAnswer) {
  EXPECT_EQ(asked("sleep 600 & echo '{\"left\": '$!'}'", 60.0).evaluator.count("left"), 1U);
}

TEST(SweepEvaluator, OneThatPrintsNoJsonObjectFailsThePointWithWhatItPrinted) {
  EXPECT_EQ(asked("echo hello").error, "the evaluator printed no JSON object but 'hello\n'");
  EXPECT_EQ(asked("true").error, "the evaluator printed no JSON object but nothing");
  EXPECT_THAT(asked("echo '[1, 2]'").error, HasSubstr("printed JSON that is no object"));
  EXPECT_THAT(asked("echo '{\"a\": 1} {\"b\": 2}'").error, HasSubstr("no JSON object"));
}

TEST(SweepEvaluator, OneThatPrintsWithoutEndIsStopped) {
  EXPECT_THAT(asked("yes", 60.0).error, HasSubstr("printed more than"));
}

TEST(SweepEvaluator, AStopEndsItAndSaysSo) {
  SweepResult result;
  EXPECT_FALSE(evaluate_point(
      {.command = "sleep 600"}, "heads", [] { return true; }, result));
}

}  // namespace
}  // namespace thaw::sweep_evaluator_test
