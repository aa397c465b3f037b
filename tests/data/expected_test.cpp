// Every given dataset against what LeRobot's own reader returned for it (expected.json, made by make_expected.py).
// More sets: THAW_DATASET_DIRS=FOLDER[:FOLDER…], read when the test runs.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <iostream>

#include "data/dataset_fixture.h"
#include "thaw/data/dataset.h"
#include "thaw/data/statistics.h"
#include "thaw/tensor/compare.h"

namespace thaw::expected_test {
namespace {

using test::Expected;
using test::tensor_of;
namespace fs = std::filesystem;

void for_each_set(const std::function<void(const fs::path&, const Expected&)>& check) {
  const std::vector<fs::path> sets = test::expected_sets();
  ASSERT_GE(sets.size(), 4U) << "the given sets are missing";
  for (const fs::path& set : sets) {
    SCOPED_TRACE(set.string());
    check(set, test::read_expected(set));
  }
}

std::vector<std::string> cameras_of(const Expected& expected) { return expected.at("cameras"); }

void expect_tensor(const std::string& key, const at::Tensor& actual, const Expected& expected, Bound bound = {}) {
  const Comparison same = compare_tensors(actual, tensor_of(expected, actual.scalar_type()), bound);
  EXPECT_TRUE(same) << key << ": " << same.message;
}

/// Largest difference of the channels' means in one region.
double mean_difference(const at::Tensor& region, const Expected& expected) {
  const at::Tensor mean = region.to(at::kDouble).mean({-2, -1});
  return (mean - tensor_of(expected, at::kDouble)).abs().max().item<double>();
}

/// Mean, quarters and flat pixels of one picture. Returns the largest mean difference.
double expect_picture(const at::Tensor& picture, const Expected& facts, const Expected& tolerances) {
  const double mean_tolerance = tolerances.at("image_mean");
  const double pixel_tolerance = tolerances.at("pixel");
  EXPECT_EQ(picture.scalar_type(), at::kByte);
  if (picture.sizes() != at::IntArrayRef(facts.at("shape_chw").get<std::vector<std::int64_t>>())) {
    ADD_FAILURE() << "picture of shape " << picture.sizes();
    return 0.0;
  }
  const std::int64_t half_height = picture.size(1) / 2;
  const std::int64_t half_width = picture.size(2) / 2;
  double worst = mean_difference(picture, facts.at("mean"));
  std::size_t quarter = 0;
  for (const at::Tensor& rows :
       {picture.narrow(1, 0, half_height), picture.narrow(1, half_height, picture.size(1) - half_height)}) {
    for (const at::Tensor& part :
         {rows.narrow(2, 0, half_width), rows.narrow(2, half_width, picture.size(2) - half_width)}) {
      worst = std::max(worst, mean_difference(part, facts.at("quadrant_mean").at(quarter++)));
    }
  }
  EXPECT_LE(worst, mean_tolerance);
  for (const Expected& pixel : facts.at("pixels")) {
    const at::Tensor found = picture.select(1, pixel.at("y")).select(1, pixel.at("x")).to(at::kDouble);
    const auto difference = (found - tensor_of(pixel.at("rgb"), at::kDouble)).abs().max().item<double>();
    EXPECT_LE(difference, pixel_tolerance) << "pixel " << pixel.dump();
  }
  return worst;
}

TEST(ExpectedDatasets, EveryListedFrameEqualsLeRobots) {
  for_each_set([](const fs::path& set, const Expected& expected) {
    const LeRobotDataset dataset = LeRobotDataset::open(set);
    double worst = 0.0;
    for (const Expected& wanted : expected.at("samples")) {
      const std::int64_t index = wanted.at("dataset_index");
      SCOPED_TRACE(fmt::format("frame {}", index));
      const Sample sample = dataset.sample(index);
      EXPECT_EQ(sample.task, wanted.at("task"));
      EXPECT_EQ(sample.index, index);
      EXPECT_EQ(sample.episode, wanted.at("values").at("episode_index"));
      for (const auto& [key, value] : wanted.at("values").items()) {
        ASSERT_TRUE(sample.tensors.contains(key)) << key;
        expect_tensor(key, sample.tensors.at(key), value);
      }
      for (const std::string& camera : cameras_of(expected)) {
        SCOPED_TRACE(camera);
        ASSERT_TRUE(sample.tensors.contains(camera));
        worst = std::max(worst, expect_picture(sample.tensors.at(camera), wanted.at("images").at(camera),
                                               expected.at("tolerances")));
      }
      EXPECT_EQ(sample.tensors.size(), wanted.at("shapes").size()) << "a tensor LeRobot does not give, or one too few";
    }
    std::cout << fmt::format("  {}: {} frames, largest difference of a picture's mean {:.3f}\n",
                             set.filename().string(), expected.at("samples").size(), worst);
  });
}

TEST(ExpectedDatasets, ActionChunksRepeatTheLastFrameAndSaySo) {
  for_each_set([](const fs::path& set, const Expected& expected) {
    DatasetOptions options{.decode_images = false};
    for (std::int64_t step = 0; step < expected.at("chunk"); ++step) options.deltas["action"].push_back(step);
    const LeRobotDataset dataset = LeRobotDataset::open(set, options);
    for (const Expected& wanted : expected.at("samples")) {
      const Sample sample = dataset.sample(wanted.at("dataset_index"));
      expect_tensor("action", sample.tensors.at("action"), wanted.at("action_chunk"));
      expect_tensor("action_is_pad", sample.tensors.at("action_is_pad"), wanted.at("action_is_pad"));
    }
  });
}

TEST(ExpectedDatasets, HistoriesRepeatTheFirstFrameAndSaySo) {
  for_each_set([](const fs::path& set, const Expected& expected) {
    const auto deltas = expected.at("history_deltas").get<DeltaIndices>();
    const LeRobotDataset dataset = LeRobotDataset::open(set, {.deltas = deltas});
    for (const Expected& wanted : expected.at("samples")) {
      SCOPED_TRACE(wanted.at("dataset_index").dump());
      const Sample sample = dataset.sample(wanted.at("dataset_index"));
      expect_tensor("observation.state", sample.tensors.at("observation.state"), wanted.at("history_state"));
      expect_tensor("is_pad", sample.tensors.at("observation.state_is_pad"), wanted.at("history_state_is_pad"));
      for (const std::string& camera : cameras_of(expected)) {
        const at::Tensor& pictures = sample.tensors.at(camera);
        expect_tensor(camera, sample.tensors.at(camera + "_is_pad"), wanted.at("history_image_is_pad").at(camera));
        EXPECT_EQ(pictures.dim(), 4);
        EXPECT_LE(mean_difference(pictures, wanted.at("history_image_mean").at(camera)),
                  expected.at("tolerances").at("image_mean"));
      }
    }
  });
}

TEST(ExpectedDatasets, EpisodeAndTaskTablesAreLeRobots) {
  for_each_set([](const fs::path& set, const Expected& expected) {
    const LeRobotDataset dataset = LeRobotDataset::open(set);
    EXPECT_EQ(dataset.version(), expected.at("codebase_version"));
    EXPECT_EQ(dataset.fps(), expected.at("fps"));
    EXPECT_EQ(dataset.total_frames(), expected.at("total_frames"));
    EXPECT_EQ(dataset.size(), expected.at("total_frames"));
    ASSERT_EQ(dataset.episodes().size(), expected.at("total_episodes"));
    for (const Expected& wanted : expected.at("episodes")) {
      const Episode& episode = dataset.episodes().at(wanted.at("episode_index"));
      EXPECT_EQ(episode.index, wanted.at("episode_index"));
      EXPECT_EQ(episode.from, wanted.at("from_index"));
      EXPECT_EQ(episode.to, wanted.at("to_index"));
      EXPECT_EQ(episode.length(), wanted.at("length"));
      EXPECT_EQ(episode.tasks, wanted.at("tasks").get<std::vector<std::string>>());
    }
    ASSERT_EQ(dataset.tasks().size(), expected.at("tasks").size());
    for (const auto& [index, task] : expected.at("tasks").items())
      EXPECT_EQ(dataset.tasks().at(std::stoul(index)), task);
  });
}

TEST(ExpectedDatasets, StoredStatisticsAreServedAsLeRobotServesThem) {
  for_each_set([](const fs::path& set, const Expected& expected) {
    const LeRobotDataset dataset = LeRobotDataset::open(set, {.decode_images = false});
    const Expected& wanted = expected.at("stats");
    EXPECT_EQ(dataset.stored_statistics().size(), wanted.size());
    const Bound bound{.absolute = 1e-9, .relative = 1e-9};
    for (const auto& [feature, values] : wanted.items()) {
      for (const auto& [name, value] : values.items()) {
        expect_tensor(feature + " " + name, dataset.stored_statistics().at(feature).at(name), value, bound);
      }
    }
  });
}

TEST(ExpectedDatasets, ComputedStatisticsAreExact) {
  for_each_set([](const fs::path& set, const Expected& expected) {
    const DatasetStatistics computed = compute_statistics(LeRobotDataset::open(set, {.decode_images = false}));
    const Bound bound{.absolute = 1e-12, .relative = 1e-12};
    for (const auto& [feature, values] : expected.at("exact_stats").items()) {
      for (const auto& [name, value] : values.items()) {
        if (name == "sum") continue;
        expect_tensor(feature + " " + name, computed.values.at(feature).at(name), value, bound);
      }
      const double frames = expected.at("total_frames");
      EXPECT_EQ(computed.values.at(feature).at("count").item<double>(), frames);
      const at::Tensor sum = computed.values.at(feature).at("mean") * frames;
      expect_tensor(feature + " sum", sum, values.at("sum"), {.absolute = 1e-9, .relative = 1e-9});
    }
    for (const std::string& camera : cameras_of(expected)) {
      EXPECT_TRUE(computed.values.contains(camera)) << "cameras keep the stored statistics";
    }
  });
}

}  // namespace
}  // namespace thaw::expected_test
