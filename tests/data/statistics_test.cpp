#include "thaw/data/statistics.h"

#include <gmock/gmock.h>

#include "data/dataset_fixture.h"
#include "thaw/tensor/compare.h"

namespace thaw::statistics_test {
namespace {

using test::DatasetCopy;
using test::given_set;
using test::message_of;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

DatasetStatistics statistics_of(const std::string& set, std::vector<std::int64_t> episodes = {}) {
  return compute_statistics(
      LeRobotDataset::open(given_set(set), {.episodes = std::move(episodes), .decode_images = false}));
}

at::Tensor doubles(std::vector<double> values) { return at::tensor(values, at::kDouble); }

void expect_equal(const at::Tensor& actual, const at::Tensor& expected, Bound bound = {.absolute = 1e-12}) {
  const Comparison same = compare_tensors(actual, expected, bound);
  EXPECT_TRUE(same) << same.message;
}

TEST(Statistics, CoverTheSelectedEpisodesOnly) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_h264"), {.episodes = {2}, .decode_images = false});
  const at::Tensor actions = dataset.column("action").to(at::kDouble);
  const Statistics values = compute_statistics(dataset).values;
  expect_equal(values.at("action").at("mean"), actions.mean(0));
  expect_equal(values.at("action").at("std"), actions.std(0, false));
  expect_equal(values.at("action").at("q10"), at::quantile(actions, 0.1, 0));
  expect_equal(values.at("action").at("q50"), at::quantile(actions, 0.5, 0));
  EXPECT_EQ(values.at("frame_index").at("max").sizes(), at::IntArrayRef({1})) << "scalars have shape (1), as LeRobot's";
  EXPECT_EQ(values.at("next.done").at("max").item<double>(), 1.0) << "booleans count as 0 and 1";
}

TEST(Statistics, LeRobotsAveragedQuantilesAreDegenerateWhereTheExactOnesAreNot) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_av1"), {.decode_images = false});
  const auto range = [](const Statistics& s) {
    return (s.at("action").at("q99") - s.at("action").at("q01"))[3].item<double>();
  };
  EXPECT_LT(range(dataset.stored_statistics()), 1e-12);
  EXPECT_GT(range(compute_statistics(dataset).values), 1.0);
  EXPECT_THAT(compute_statistics(dataset).warnings, Not(Contains(HasSubstr("action[3]"))));
}

TEST(Statistics, ConstantDimensionIsExactAndReported) {
  const DatasetStatistics one = statistics_of("v30_av1", {0});  // the gripper's action is constant within an episode
  EXPECT_THAT(one.warnings, Contains(HasSubstr("action[3]: constant")));
  EXPECT_EQ(one.values.at("action").at("std")[3].item<double>(), 0.0);
  EXPECT_EQ(one.values.at("action").at("mean")[3].item<double>(), one.values.at("action").at("min")[3].item<double>());
}

TEST(Statistics, StoredOnesAreEmptyWithoutAFile) {
  const DatasetCopy copy("v30_png");
  std::filesystem::remove(copy / "meta/stats.json");
  EXPECT_THAT(LeRobotDataset::open(copy.root()).stored_statistics(), IsEmpty());
}

TEST(Statistics, StoredOnesThatAreNoNumbersAreRefused) {
  const auto refusal = [](const std::string& json) {
    const DatasetCopy copy("v30_png");
    test::write_file(copy / "meta/stats.json", json);
    return copy.refusal<FormatError>();
  };
  EXPECT_THAT(refusal(R"({"action": {"mean": [NaN]}})"), HasSubstr("found NaN"));
  EXPECT_THAT(refusal(R"({"action": {"mean": [[1, 2], [3]]}})"), HasSubstr("meta/stats.json feature 'action' 'mean'"));
  EXPECT_THAT(refusal(R"({"action": {"mean": ["1"]}})"), HasSubstr("found string"));
  EXPECT_THAT(refusal(R"({"action": [1]})"), HasSubstr("expected an object, found array"));
  EXPECT_THAT(refusal(R"({"action": {"mean": []}})"), HasSubstr("empty"));
}

TEST(Statistics, EpisodeStatisticsOfV21MustAgreeInShape) {
  const DatasetCopy copy("v21_av1");
  copy.edit_bytes("meta/episodes_stats.jsonl",
                  [](std::string& text) { text.replace(text.find(R"("count": [25])"), 13, R"("count": [-5])"); });
  EXPECT_THAT(copy.refusal<FormatError>(), HasSubstr("meta/episodes_stats.jsonl episode 1"));
}

Statistics one_feature(std::vector<double> low, std::vector<double> high, std::vector<double> q01,
                       std::vector<double> q99) {
  const auto n = static_cast<std::int64_t>(low.size());
  return {{"action",
           {{"min", doubles(std::move(low))},
            {"max", doubles(std::move(high))},
            {"q01", doubles(std::move(q01))},
            {"q99", doubles(std::move(q99))},
            {"std", at::zeros({n}, at::kDouble)},
            {"mean", at::zeros({n}, at::kDouble)},
            {"count", doubles({100})}}}};
}

TEST(GuardDegenerate, LeavesUsableRangesAlone) {
  Statistics statistics = one_feature({-1, 0}, {1, 2}, {-0.9, 0.1}, {0.9, 1.9});
  EXPECT_THAT(guard_degenerate(statistics), IsEmpty());
  expect_equal(statistics.at("action").at("q01"), doubles({-0.9, 0.1}), {});
}

TEST(GuardDegenerate, WidensQuantilesWithoutRangeToMinAndMax) {
  Statistics statistics = one_feature({-1, 0}, {1, 2}, {0.5, 0.1}, {0.5 + 1e-14, 1.9});
  EXPECT_THAT(guard_degenerate(statistics),
              ElementsAre(HasSubstr("action[0]: q01 = q99 = 0.5 is replaced by min -1 and max 1")));
  expect_equal(statistics.at("action").at("q01"), doubles({-1, 0.1}), {});
  expect_equal(statistics.at("action").at("q99"), doubles({1, 1.9}), {});
}

TEST(GuardDegenerate, GivesAConstantARangeAroundItself) {
  Statistics statistics = one_feature({3}, {3}, {3}, {3});
  EXPECT_THAT(guard_degenerate(statistics), ElementsAre(HasSubstr("action: constant 3")));
  expect_equal(statistics.at("action").at("min"), doubles({2}), {});
  expect_equal(statistics.at("action").at("q99"), doubles({4}), {});
  expect_equal(statistics.at("action").at("std"), doubles({1}), {});
  expect_equal(statistics.at("action").at("count"), doubles({100}), {});
}

TEST(GuardDegenerate, KeepsDtypeAndTouchesOnlyWhatIsNormalised) {
  Statistics statistics = one_feature({3}, {3}, {3}, {3});
  for (auto& [name, tensor] : statistics["action"]) tensor = tensor.to(at::kFloat);
  statistics["timestamp"] = {{"min", doubles({0})}, {"max", doubles({0})}, {"std", doubles({0})}};
  EXPECT_EQ(guard_degenerate(statistics).size(), 1U);
  EXPECT_EQ(statistics.at("action").at("std").scalar_type(), at::kFloat);
  EXPECT_EQ(statistics.at("timestamp").at("std").item<double>(), 0.0);
}

}  // namespace
}  // namespace thaw::statistics_test
