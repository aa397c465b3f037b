#include "thaw/train/schedule.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "support/paths.h"
#include "thaw/core/json.h"

namespace thaw::schedule_test {
namespace {

constexpr double kPeak = 1e-4;

double rate(const ScheduleOptions& options, std::int64_t steps, std::int64_t step) {
  return kPeak * Schedule(options, TrainingPreset{}, kPeak, steps).factor(step);
}

TEST(Schedule, CosineGivesTheRatesThatLeRobotGives) {
  const std::filesystem::path file =
      std::filesystem::path(thaw::test::source_dir()) / "tests/golden/smolvla_tiny/meta.json";
  const Json lengths = read_json(file).at("schedule_check");
  ASSERT_FALSE(lengths.empty());
  for (const auto& length : lengths.items()) {
    ASSERT_FALSE(length.value().empty());
    for (const auto& check : length.value().items()) {
      const auto expected = check.value().get<double>();
      const double actual = rate({}, std::stoll(length.key()), std::stoll(check.key()));
      EXPECT_NEAR(actual, expected, 1e-12 * expected) << "length " << length.key() << ", step " << check.key();
    }
  }
}

TEST(Schedule, CosineCountsFromStepZeroAndSoDropsAtTheEndOfWarmUp) {
  const Schedule schedule({}, TrainingPreset{}, kPeak, 30000);
  EXPECT_LT(schedule.factor(1000), schedule.factor(999));
  EXPECT_NEAR(kPeak * schedule.factor(1000), 9.97329e-5, 1e-10);
}

TEST(Schedule, ShortRunScalesWarmUpAndDecayInProportion) {
  const Schedule schedule({}, TrainingPreset{}, kPeak, 3000);
  EXPECT_EQ(schedule.warmup_steps(), 100);
  EXPECT_EQ(schedule.decay_steps(), 3000);
}

TEST(Schedule, ShortRunKeepsWarmUpWithoutAutoScale) {
  const Schedule schedule({.auto_scale = false}, TrainingPreset{}, kPeak, 3000);
  EXPECT_EQ(schedule.warmup_steps(), 1000);
  EXPECT_EQ(schedule.decay_steps(), 30000);
}

TEST(Schedule, ConstantWarmsUpAndThenStays) {
  const ScheduleOptions options{.kind = ScheduleKind::constant, .warmup_steps = 4, .decay_steps = 10};
  EXPECT_DOUBLE_EQ(rate(options, 100, 0), kPeak / 5);
  EXPECT_DOUBLE_EQ(rate(options, 100, 2), kPeak * 0.6);
  EXPECT_DOUBLE_EQ(rate(options, 100, 4), kPeak);
  EXPECT_DOUBLE_EQ(rate(options, 100, 99), kPeak);
}

TEST(Schedule, LinearFallsFromThePeakToTheDecayRateAndNoFurther) {
  const ScheduleOptions options{
      .kind = ScheduleKind::linear, .warmup_steps = 10, .decay_steps = 110, .decay_learning_rate = 2e-5};
  EXPECT_DOUBLE_EQ(rate(options, 1000, 10), kPeak);
  EXPECT_NEAR(rate(options, 1000, 60), 6e-5, 1e-18);
  EXPECT_NEAR(rate(options, 1000, 110), 2e-5, 1e-18);
  EXPECT_NEAR(rate(options, 1000, 500), 2e-5, 1e-18);
}

TEST(Schedule, NoWarmUpStartsAtThePeak) { EXPECT_DOUBLE_EQ(rate({.warmup_steps = 0}, 30000, 0), kPeak); }

}  // namespace
}  // namespace thaw::schedule_test
