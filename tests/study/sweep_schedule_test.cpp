#include "thaw/study/sweep_schedule.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>

#include "study/studies.h"
#include "thaw/core/error.h"

namespace thaw::sweep_schedule_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::message_of;
using Error = std::function<double(const SweepPoint&)>;

/// Three freezes without weights: label and digest alone tell them apart.
SweepPlan plan_of(std::vector<double> rates = {1e-3}) {
  SweepPlan plan{.learning_rates = std::move(rates), .seeds = {1, 2}, .steps = 100, .setting = "s"};
  for (const char* rules : {"a", "b", "c", "d"}) {
    SweepFreeze freeze{.label = rules};
    freeze.plan.parameters = {{.name = rules, .parameter_class = ParameterClass::trainable}};
    plan.freezes.push_back(freeze);
  }
  return plan;
}

SweepResult result_of(const SweepPoint& point, const Error& error) {
  SweepResult result{.point = point};
  const double loss = error(point);
  if (std::isfinite(loss)) result.held_out = EvaluationResult{.loss = loss};
  if (!std::isfinite(loss)) result.error = "failed";
  return result;
}

/// Everything that is trained, in order.
std::vector<SweepResult> run(const SweepPlan& plan, const Error& error, std::vector<SweepResult> results = {}) {
  for (std::vector<SweepPoint> pending = pending_points(plan, results); !pending.empty();
       pending = pending_points(plan, results)) {
    for (const SweepPoint& point : pending) results.push_back(result_of(point, error));
  }
  return results;
}

std::string text_of(const SweepPoint& point) {
  return point.freeze + " " + std::to_string(point.seed) + " " + std::to_string(point.steps);
}

std::vector<std::string> texts(const std::vector<SweepResult>& results) {
  std::vector<std::string> all;
  for (const SweepResult& result : results) all.push_back(text_of(result.point));
  return all;
}

double by_letter(const SweepPoint& point) { return point.freeze[0] + 0.1 * static_cast<double>(point.seed); }

TEST(SweepSchedule, WithoutSearchOrHalvingEveryConfigurationTrainsWithEverySeedInTheGridsOrder) {
  SweepPlan plan = plan_of();
  plan.freezes.resize(2);
  EXPECT_THAT(texts(run(plan, by_letter)), ElementsAre("a 1 100", "a 2 100", "b 1 100", "b 2 100"));
}

TEST(SweepSchedule, HalvingKeepsTheBetterPartByTheMeanOverSeedsAndTrainsItAnew) {
  SweepPlan plan = plan_of();
  plan.halving = Halving{.rungs = {10, 50}};
  const Error error = [](const SweepPoint& point) {
    if (point.freeze == "d") return point.seed == 1 ? 0.0 : 9.0;  // mean 4.5
    return point.freeze == "a" ? 4.0 : (point.freeze == "b" ? 3.0 : 5.0);
  };
  const std::vector<std::string> trained = texts(run(plan, error));
  EXPECT_THAT(trained, ElementsAre("a 1 10", "a 2 10", "b 1 10", "b 2 10", "c 1 10", "c 2 10", "d 1 10", "d 2 10",
                                   "a 1 50", "a 2 50", "b 1 50", "b 2 50", "b 1 100", "b 2 100"));
}

TEST(SweepSchedule, AConfigurationThatFailsLeavesAtItsRung) {
  SweepPlan plan = plan_of();
  plan.freezes.resize(2);
  plan.halving = Halving{.rungs = {10}, .keep = 0.9};
  const Error error = [](const SweepPoint& point) {
    return point.freeze == "a" && point.seed == 2 ? std::nan("") : 1.0;
  };
  EXPECT_THAT(texts(run(plan, error)), ElementsAre("a 1 10", "a 2 10", "b 1 10", "b 2 10", "b 1 100", "b 2 100"));
}

TEST(SweepSchedule, TheSearchGivesEveryFreezeItsOwnBestRate) {
  SweepPlan plan = plan_of({1e-4, 1e-3, 1e-2});
  plan.freezes.resize(2);
  plan.rate_search = RateSearch{.steps = 5};
  const Error error = [](const SweepPoint& point) {
    const double best = point.freeze == "a" ? 1e-3 : 2e-3;
    return std::abs(std::log(point.learning_rate / best));
  };
  const std::vector<SweepResult> results = run(plan, error);
  for (const SweepResult& result : results) {
    if (result.point.reason == SweepReason::full) {
      EXPECT_EQ(result.point.learning_rate, 1e-3) << result.point.freeze;
    } else {
      EXPECT_EQ(result.point.seed, 1U);
    }
  }
  EXPECT_EQ(results.size(), 2U * 3U + 2U * 2U);
}

TEST(SweepSchedule, WhileTheBestRateLiesAtAnEndOneMoreBeyondItIsTriedUpToTheLimit) {
  SweepPlan plan = plan_of({1e-4, 1e-3});
  plan.freezes.resize(1);
  plan.rate_search = RateSearch{.steps = 5, .beyond = 2};
  const auto rates = [&plan](const Error& error) {
    std::vector<double> tried;
    for (const SweepResult& result : run(plan, error)) {
      if (result.point.seed == 1) tried.push_back(result.point.learning_rate);
    }
    return tried;
  };
  EXPECT_THAT(rates([](const SweepPoint& point) { return -point.learning_rate; }),
              ElementsAre(1e-4, 1e-3, 1e-2, 1e-1, 1e-1));
  EXPECT_THAT(rates([](const SweepPoint& point) { return point.learning_rate; }),
              ElementsAre(1e-4, 1e-3, 1e-5, 1e-6, 1e-6));
  EXPECT_THAT(rates([](const SweepPoint&) { return 1.0; }), ElementsAre(1e-4, 1e-3, 1e-5, 1e-6, 1e-6))
      << "of equal ones the smaller rate";
}

TEST(SweepSchedule, AFreezeWhoseEveryRateFailsIsNotTrainedAtLength) {
  SweepPlan plan = plan_of({1e-4, 1e-3});
  plan.freezes.resize(2);
  plan.rate_search = RateSearch{.steps = 5};
  const Error error = [](const SweepPoint& point) { return point.freeze == "a" ? std::nan("") : point.learning_rate; };
  for (const SweepResult& result : run(plan, error)) {
    if (result.point.reason == SweepReason::full) {
      EXPECT_EQ(result.point.freeze, "b");
    }
  }
}

TEST(SweepSchedule, ASearchAsLongAsATrainingIsNotDoneTwice) {
  SweepPlan plan = plan_of({1e-4, 1e-3, 1e-2});
  plan.freezes.resize(1);
  plan.rate_search = RateSearch{.steps = 100};
  const Error error = [](const SweepPoint& point) { return std::abs(std::log(point.learning_rate / 1e-3)); };
  EXPECT_EQ(run(plan, error).size(), 3U + 1U) << "three rates with the first seed, and the second seed of the best";
}

TEST(SweepSchedule, FromAnyPartOfItsResultsASweepGoesOnToTheSameEnd) {
  SweepPlan plan = plan_of({1e-4, 1e-3, 1e-2});
  plan.rate_search = RateSearch{.steps = 5};
  plan.halving = Halving{.rungs = {10, 50}};
  const Error error = [](const SweepPoint& point) {
    return by_letter(point) * std::abs(std::log(point.learning_rate)) / static_cast<double>(point.steps);
  };
  const auto lines = [&plan](const std::vector<SweepResult>& results) {
    std::vector<std::string> ids;
    for (const SweepPoint& point : decided_points(plan, results)) ids.push_back(point.id);
    EXPECT_EQ(ids.size(), results.size());
    return ids;
  };
  const std::vector<SweepResult> whole = run(plan, error);
  const std::vector<std::string> order = lines(whole);
  ASSERT_GT(whole.size(), 20U);
  for (std::size_t done = 0; done <= whole.size(); ++done) {
    const std::vector<SweepResult> part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(done));
    EXPECT_EQ(lines(run(plan, error, part)), order) << "after " << done;
  }
}

TEST(SweepSchedule, PlansThatCannotBeAreRefusedByField) {
  SweepPlan plan = plan_of();
  plan.rate_search = RateSearch{.steps = 5};
  EXPECT_THAT(message_of<UsageError>([&] { plan.validate(); }), HasSubstr("at least two to search among"));
  plan.rate_search.reset();
  for (const std::vector<std::int64_t>& rungs :
       {std::vector<std::int64_t>{50, 10}, std::vector<std::int64_t>{100}, std::vector<std::int64_t>{0}}) {
    plan.halving = Halving{.rungs = rungs};
    EXPECT_THAT(message_of<UsageError>([&] { plan.validate(); }), HasSubstr("rising numbers of steps from 1 to 99"));
  }
  plan.halving = Halving{.rungs = {10}, .keep = 1.0};
  EXPECT_THAT(message_of<UsageError>([&] { plan.validate(); }), HasSubstr("halving.keep"));
}

}  // namespace
}  // namespace thaw::sweep_schedule_test
