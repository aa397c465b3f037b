#include "thaw/study/sweep_results.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "study/studies.h"
#include "thaw/core/error.h"

namespace thaw::sweep_results_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::message_of;

SweepResult result(const std::string& id, double loss = 0.5) {
  SweepResult each{.point = {.id = id, .freeze = "blocks=1", .blocks = {{"blocks", 1}}, .plan_digest = "d"},
                   .held_out = EvaluationResult{.loss = loss, .metrics = {{"action_mse", 2.0}}, .samples = 3}};
  each.cut = "none";
  each.times = {.seconds = 1.5, .samples_per_second = 8.0};
  return each;
}

std::vector<std::string> ids(const std::vector<SweepResult>& results) {
  std::vector<std::string> all;
  for (const SweepResult& each : results) all.push_back(each.point.id);
  return all;
}

TEST(SweepResult, ALineComesBackWithEveryField) {
  SweepResult full = result("a");
  full.training_loss = 0.25;
  full.planned_peak_bytes = 123;
  full.planned_step_flops = 1e9;
  full.head_bytes = 77;
  full.evaluator = {{"success", 0.5}};
  full.error = "the evaluator ended with exit code 3";
  full.times.peak_resident_bytes = 9;
  full.held_out->series["action_mse_by_step"] = {1.0, std::numeric_limits<double>::quiet_NaN()};
  const SweepResult back = SweepResult::from_json(parse_json(full.to_json().dump(), "line"), "line");
  EXPECT_EQ(back.to_json().dump(), full.to_json().dump());
  EXPECT_TRUE(std::isnan(back.held_out->series.at("action_mse_by_step").at(1)));
}

TEST(SweepResult, FiguresAreFoundByNameAndAMinusTurnsThemRound) {
  SweepResult each = result("a", 0.5);
  each.evaluator = {{"success", 0.75}, {"note", "text"}};
  EXPECT_EQ(each.figure("loss"), 0.5);
  EXPECT_EQ(each.figure("action_mse"), 2.0);
  EXPECT_EQ(each.figure("-evaluator.success"), -0.75);
  EXPECT_EQ(each.figure("evaluator.note"), std::nullopt);
  EXPECT_EQ(each.figure("evaluator.absent"), std::nullopt);
  EXPECT_EQ(each.figure("absent"), std::nullopt);
  each.held_out->loss = std::numeric_limits<double>::infinity();
  EXPECT_EQ(each.figure("loss"), std::nullopt);
}

TEST(SweepFolder, LinesStandInTheOrderOfThePlanWhateverCameFirst) {
  const toy::Folder folder;
  SweepFolder sweep(folder.path() / "sweep", {{"x", 1}}, false);
  const std::vector<SweepPoint> order{{.id = "a"}, {.id = "b"}, {.id = "c"}};
  for (const char* id : {"c", "other", "a", "b"}) sweep.add(result(id), order);
  EXPECT_THAT(ids(read_sweep_results(sweep.file())), ElementsAre("a", "b", "c", "other"));
}

TEST(SweepFolder, WhatFailedIsTriedAgainAndTheRestIsKept) {
  const toy::Folder folder;
  const std::filesystem::path root = folder.path() / "sweep";
  const std::vector<SweepPoint> order{{.id = "a"}, {.id = "b"}};
  {
    SweepFolder sweep(root, {{"x", 1}}, false);
    SweepResult failed = result("a");
    failed.error = "it failed";
    sweep.add(failed, order);
    sweep.add(result("b"), order);
  }
  SweepFolder again(root, {{"x", 1}}, true);
  EXPECT_THAT(ids(again.results()), ElementsAre("b"));
  again.add(result("a"), order);
  EXPECT_THAT(ids(read_sweep_results(again.file())), ElementsAre("a", "b"));
}

TEST(SweepFolder, AnotherSettingIsRefusedNamingWhatDiffers) {
  const toy::Folder folder;
  const std::filesystem::path root = folder.path() / "sweep";
  { const SweepFolder sweep(root, {{"base", "1"}, {"options", 2}}, false); }
  EXPECT_THAT(message_of<MismatchError>([&] {
                SweepFolder(root, {{"base", "1"}, {"options", 3}}, true);
              }),
              testing::AllOf(HasSubstr("'options'"), HasSubstr("expected 2"), HasSubstr("found 3")));
}

TEST(SweepFolder, ASweepIsNotBegunOverAnotherNorResumedWhereThereIsNone) {
  const toy::Folder folder;
  const std::filesystem::path root = folder.path() / "sweep";
  EXPECT_THAT(message_of<UsageError>([&] { SweepFolder(folder.path(), Json::object(), true); }),
              HasSubstr("expected a sweep to resume"));
  { const SweepFolder sweep(root, Json::object(), false); }
  EXPECT_THAT(message_of<UsageError>([&] { SweepFolder(root, Json::object(), false); }), HasSubstr("Resume it"));
}

TEST(SweepFolder, ALineThatIsNoResultIsRefusedWithItsNumberAndField) {
  const toy::Folder folder;
  const std::filesystem::path file = folder.path() / "results.jsonl";
  toy::overwrite(file, result("a").to_json().dump() + "\n{\"id\":\"b\"}\n");
  EXPECT_THAT(message_of<FormatError>([&] { (void)read_sweep_results(file); }),
              testing::AllOf(HasSubstr("result 2"), HasSubstr("why")));
}

}  // namespace
}  // namespace thaw::sweep_results_test
