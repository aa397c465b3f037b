#include "thaw/freeze/freeze_schedule.h"

#include <set>

#include "layouts.h"
#include "thaw/core/error.h"

namespace thaw::freeze_schedule_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using Blocks = std::vector<std::int64_t>;

const ModelLayout& mini() {
  static const ModelLayout layout = test::MiniVla().layout;
  return layout;
}

FreezePlan resolve(const LayerFreezePolicy& rules) { return rules.resolve(mini()); }
LayerFreezePolicy rules(const char* text) { return LayerFreezePolicy::parse(text); }

Blocks trained(const FreezePlan& plan, const std::string& stack) {
  for (const StackPlan& one : plan.stacks) {
    if (one.name == stack) return one.trainable_blocks;
  }
  return {};
}

TEST(FreezeSchedule, PhasesAddTheirRulesToThoseOfTheRunAndReplaceEachOther) {
  const FreezeSchedule schedule(resolve, rules("language=1"),
                                FreezeSchedule::parse_phases("10: language=2; 25:vision=1,language=0"));
  EXPECT_EQ(schedule.phase_at(0), 0);
  EXPECT_EQ(schedule.phase_at(9), 0);
  EXPECT_EQ(schedule.phase_at(10), 1);
  EXPECT_EQ(schedule.phase_at(24), 1);
  EXPECT_EQ(schedule.phase_at(25), 2);
  EXPECT_EQ(schedule.phase_at(100'000), 2);
  EXPECT_EQ(trained(schedule.plan_of(0), "language"), (Blocks{3}));
  EXPECT_EQ(trained(schedule.plan_of(1), "language"), (Blocks{2, 3}));
  EXPECT_EQ(trained(schedule.plan_of(1), "vision"), (Blocks{}));
  EXPECT_EQ(trained(schedule.plan_of(2), "language"), (Blocks{}));
  EXPECT_EQ(trained(schedule.plan_of(2), "vision"), (Blocks{1}));
}

TEST(FreezeSchedule, TheWholeTrainsWhatSomePhaseTrainsAndItsBoundaryIsTheDeepest) {
  const FreezeSchedule schedule(resolve, rules("language=1"),
                                FreezeSchedule::parse_phases("10: language=2; 25: vision=1"));
  const FreezePlan& whole = schedule.whole();
  std::size_t deepest = whole.line.size();
  std::set<std::string> some;
  for (std::int64_t phase = 0; phase < 3; ++phase) {
    const FreezePlan plan = schedule.plan_of(phase);
    deepest = std::min(deepest, plan.boundary);
    for (const std::string& name : plan.names(ParameterClass::trainable)) some.insert(name);
  }
  const std::vector<std::string> all = whole.names(ParameterClass::trainable);
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()), some);
  EXPECT_EQ(whole.boundary, deepest);
  EXPECT_EQ(whole.rules,
            (std::vector<std::string>{"language=1", "from step 10: language=2", "from step 25: vision=1"}));
}

TEST(FreezeSchedule, RotatingBlocksAreAPureFunctionOfSeedAndPeriodAndReachEveryBlock) {
  const RotatingBlocks rotating{.stack = "expert", .blocks = 2, .every = 5, .seed = 3};
  const FreezeSchedule schedule(resolve, {}, rotating);
  const FreezeSchedule again(resolve, {}, rotating);
  RotatingBlocks other_seed = rotating;
  other_seed.seed = 4;
  const FreezeSchedule other(resolve, {}, other_seed);
  std::set<std::int64_t> seen;
  int differences = 0;
  for (std::int64_t period = 0; period < 50; ++period) {
    EXPECT_EQ(schedule.phase_at(5 * period), period);
    EXPECT_EQ(schedule.phase_at(5 * period + 4), period);
    const Blocks blocks = schedule.blocks_of(period);
    EXPECT_EQ(blocks.size(), 2U);
    EXPECT_LT(blocks[0], blocks[1]);
    EXPECT_EQ(again.blocks_of(period), blocks);
    EXPECT_EQ(trained(schedule.plan_of(period), "expert"), blocks);
    if (other.blocks_of(period) != blocks) ++differences;
    seen.insert(blocks.begin(), blocks.end());
  }
  EXPECT_EQ(seen.size(), 4U);
  EXPECT_GT(differences, 10);
  EXPECT_EQ(trained(schedule.whole(), "expert"), (Blocks{0, 1, 2, 3}));
}

TEST(FreezeSchedule, TextThatIsNoScheduleIsShownWithTheGrammar) {
  for (const char* text : {"", "language=2", "x: language=2", "0: language=2", "10: language=2; 10: language=1",
                           "10: language=2; 5: language=1", "10: language=2;"}) {
    EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(FreezeSchedule::parse_phases(text)); }),
                HasSubstr("phases like '500: language=2; 1000: language=4', each behind the one before"))
        << text;
  }
  for (const char* text :
       {"", "language,blocks", "language,blocks=0", "language,often=3", "blocks=2", "language,every=x"}) {
    EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(FreezeSchedule::parse_rotating(text)); }),
                HasSubstr("a stack and numbers like 'language,blocks=2,every=50'"))
        << text;
  }
  const RotatingBlocks rotating = FreezeSchedule::parse_rotating(" language , every = 7 ");
  EXPECT_EQ(rotating.stack, "language");
  EXPECT_EQ(rotating.every, 7);
  EXPECT_EQ(rotating.blocks, 1);
}

TEST(FreezeSchedule, AStackThatIsNotThereAndMoreBlocksThanCanLearnAreRefused) {
  const auto message = [](const RotatingBlocks& rotating) {
    return message_of<UsageError>([&] { FreezeSchedule(resolve, {}, rotating); });
  };
  EXPECT_THAT(message({.stack = "languge"}), HasSubstr("language"));
  EXPECT_THAT(message({.stack = "expert", .blocks = 5}), HasSubstr("1 to 4 blocks of 'expert', which can learn"));
  EXPECT_THAT(message_of<UsageError>([] {
                FreezeSchedule(resolve, {}, std::vector<PhaseRules>{{.first_step = 5, .rules = rules("language=9")}});
              }),
              HasSubstr("language=9"));
}

}  // namespace
}  // namespace thaw::freeze_schedule_test
