#include "thaw/data/dataset.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "data/dataset_fixture.h"
#include "thaw/data/episode_split.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/digest.h"
#include "thaw/tensor/random.h"

namespace thaw::dataset_test {
namespace {

using test::given_set;
using test::message_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kCorner = "observation.images.corner";

std::string open_refusal(const std::string& set, const DatasetOptions& options) {
  return message_of<UsageError>([&] { static_cast<void>(LeRobotDataset::open(given_set(set), options)); });
}

TEST(Dataset, FeaturesKeepTheOrderOfInfoAndTheirMeaning) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_av1"));
  ASSERT_GE(dataset.features().size(), 7U);
  EXPECT_EQ(dataset.features()[0].name, "observation.state");
  EXPECT_EQ(dataset.features()[0].type, FeatureType::state);
  EXPECT_EQ(dataset.features()[1].type, FeatureType::action);
  const Feature* camera = find_feature(dataset.features(), kCorner);
  ASSERT_NE(camera, nullptr);
  EXPECT_EQ(camera->type, FeatureType::visual);
  EXPECT_THAT(camera->shape, ElementsAre(3, 96, 96));
  EXPECT_EQ(find_feature(dataset.features(), "timestamp")->type, FeatureType::other);
}

TEST(Dataset, SubsetOfEpisodesYieldsTheirFramesInFileOrder) {
  const LeRobotDataset all = LeRobotDataset::open(given_set("v30_h264"));
  const LeRobotDataset some = all.with({.episodes = {4, 1}});
  EXPECT_THAT(some.selected_episodes(), ElementsAre(1, 4));
  const Episode& one = all.episodes()[1];
  const Episode& four = all.episodes()[4];
  ASSERT_EQ(some.size(), one.length() + four.length());
  EXPECT_EQ(some.total_frames(), all.total_frames());
  EXPECT_EQ(some.frame_at(0), one.from);
  EXPECT_EQ(some.frame_at(one.length() - 1), one.to - 1);
  EXPECT_EQ(some.frame_at(one.length()), four.from);
  const Sample sample = some.sample(one.length() + 3);
  EXPECT_EQ(sample.index, four.from + 3);
  EXPECT_TRUE(bitwise_equal(sample.tensors.at(kCorner), all.sample(four.from + 3).tensors.at(kCorner)));
}

TEST(Dataset, DeltasStopAtTheEpisodesEndsAlsoInASubset) {
  const LeRobotDataset dataset = LeRobotDataset::open(
      given_set("v30_h264"), {.episodes = {2, 3}, .deltas = {{"frame_index", {-2, 0, 2}}}, .decode_images = false});
  const std::int64_t last = dataset.episodes()[2].length() - 1;
  const auto numbers = [](const at::Tensor& t) {
    return std::vector<std::int64_t>(t.const_data_ptr<std::int64_t>(), t.const_data_ptr<std::int64_t>() + t.numel());
  };
  EXPECT_THAT(numbers(dataset.sample(0).tensors.at("frame_index")), ElementsAre(0, 0, 2));
  EXPECT_THAT(numbers(dataset.sample(last).tensors.at("frame_index")), ElementsAre(last - 2, last, last));
  const at::Tensor pad = dataset.sample(last).tensors.at("frame_index_is_pad");
  EXPECT_TRUE(compare_tensors(pad, at::tensor({0, 0, 1}).to(at::kBool)));
}

TEST(Dataset, OneStepDeltaKeepsTheTimeAxisForNumbersAndNotForPictures) {
  for (const char* set : {"v30_png", "v30_av1"}) {
    const LeRobotDataset dataset =
        LeRobotDataset::open(given_set(set), {.deltas = {{kCorner, {-1}}, {"action", {0}}, {"next.reward", {0}}}});
    const Sample sample = dataset.sample(5);
    EXPECT_EQ(sample.tensors.at("action").sizes(), at::IntArrayRef({1, 4}));
    EXPECT_EQ(sample.tensors.at("next.reward").sizes(), at::IntArrayRef({1}));
    EXPECT_EQ(sample.tensors.at(kCorner).dim(), 3) << set;
    EXPECT_EQ(sample.tensors.at(std::string(kCorner) + "_is_pad").sizes(), at::IntArrayRef({1}));
    EXPECT_TRUE(bitwise_equal(sample.tensors.at(kCorner), dataset.with({}).sample(4).tensors.at(kCorner)));
  }
}

TEST(Dataset, UnsortedAndRepeatedPictureDeltasComeInTheirOrder) {
  const LeRobotDataset plain = LeRobotDataset::open(given_set("v30_av1"));
  const LeRobotDataset dataset = plain.with({.deltas = {{kCorner, {2, -1, 2, 0}}}});
  const at::Tensor pictures = dataset.sample(10).tensors.at(kCorner);
  ASSERT_EQ(pictures.size(0), 4);
  const std::vector<std::int64_t> frames{12, 9, 12, 10};
  for (std::size_t i = 0; i < frames.size(); ++i) {
    EXPECT_TRUE(bitwise_equal(pictures[static_cast<std::int64_t>(i)], plain.sample(frames[i]).tensors.at(kCorner)))
        << i;
  }
}

TEST(Dataset, OnlyTheChosenCamerasAreDecoded) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_av1"), {.cameras = {"observation.images.wrist"}});
  const Sample sample = dataset.sample(0);
  EXPECT_TRUE(sample.tensors.contains("observation.images.wrist"));
  EXPECT_FALSE(sample.tensors.contains(kCorner));
  EXPECT_FALSE(dataset.with({.decode_images = false}).sample(0).tensors.contains("observation.images.wrist"));
}

TEST(Dataset, ReadingOnIsWorthItUpToTheNextButOneKeyFrame) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_av1"));  // a key frame every other frame
  EXPECT_TRUE(dataset.reads_on(0, 1));
  EXPECT_TRUE(dataset.reads_on(1, 2));
  EXPECT_TRUE(dataset.reads_on(0, 3));
  EXPECT_FALSE(dataset.reads_on(0, 4));
  EXPECT_FALSE(dataset.reads_on(5, 5)) << "a decoder cannot give a picture twice";
  EXPECT_FALSE(dataset.reads_on(5, 4));
  EXPECT_FALSE(dataset.with({.decode_images = false}).reads_on(0, 1));
  EXPECT_FALSE(LeRobotDataset::open(given_set("v30_png")).reads_on(0, 1)) << "pictures of their own";
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(dataset.reads_on(0, 442)); }), HasSubstr("found 442"));
}

TEST(Dataset, NoReaderGoesOnIntoAnotherFile) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v21_av1"));  // a file an episode
  const std::int64_t second = dataset.episodes()[1].from;
  EXPECT_TRUE(dataset.reads_on(second - 2, second - 1));
  EXPECT_FALSE(dataset.reads_on(second - 1, second));
}

TEST(Dataset, SampleWithoutImagesIsTheSampleLessItsCameras) {
  const LeRobotDataset dataset = LeRobotDataset::open(
      given_set("v30_av1"), {.episodes = {2, 5}, .deltas = {{"action", {0, 1, 2, 3}}, {kCorner, {-1, 0}}}});
  for (const std::int64_t position : {std::int64_t{0}, dataset.size() / 2, dataset.size() - 1}) {
    Sample expected = dataset.sample(position);
    const Sample found = dataset.sample_without_images(position);
    EXPECT_EQ(found.index, expected.index);
    EXPECT_EQ(found.episode, expected.episode);
    EXPECT_EQ(found.task, expected.task);
    std::erase_if(expected.tensors, [](const auto& entry) { return entry.first.starts_with("observation.images."); });
    ASSERT_EQ(found.tensors.size(), expected.tensors.size());
    for (const auto& [key, tensor] : expected.tensors) EXPECT_TRUE(bitwise_equal(found.tensors.at(key), tensor)) << key;
  }
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(dataset.sample_without_images(-1)); }),
              HasSubstr("found -1"));
}

TEST(Dataset, SampleWithoutImagesNeedsNoReadablePictures) {
  const test::DatasetCopy copy("v30_av1");
  const LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  std::filesystem::remove_all(copy / "videos");
  EXPECT_EQ(dataset.sample_without_images(7).index, 7);
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(dataset.sample(7)); }), HasSubstr("file-000.mp4"));
}

TEST(Dataset, SamplesDoNotShareMemoryWithTheTables) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_png"), {.decode_images = false});
  const at::Tensor before = dataset.sample(3).tensors.at("action").clone();
  dataset.sample(3).tensors.at("action").fill_(7);
  EXPECT_TRUE(bitwise_equal(dataset.sample(3).tensors.at("action"), before));
}

TEST(Dataset, ColumnHoldsAllSelectedFrames) {
  const LeRobotDataset dataset =
      LeRobotDataset::open(given_set("v30_h264"), {.episodes = {1, 5}, .decode_images = false});
  const at::Tensor actions = dataset.column("action");
  ASSERT_EQ(actions.sizes(), at::IntArrayRef({dataset.size(), 4}));
  EXPECT_TRUE(bitwise_equal(actions[dataset.size() - 1], dataset.sample(dataset.size() - 1).tensors.at("action")));
  EXPECT_EQ(dataset.column("index").dim(), 1);
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(dataset.column("actions")); }),
              AllOf(HasSubstr("'actions'"), HasSubstr("Did you mean 'action'?")));
}

TEST(Dataset, BothFormatsOfOneRecordingGiveTheSameNumbers) {
  const LeRobotDataset v30 = LeRobotDataset::open(given_set("v30_h264"), {.decode_images = false});
  const LeRobotDataset v21 = LeRobotDataset::open(given_set("v21_av1"), {.decode_images = false});
  ASSERT_EQ(v30.size(), v21.size());
  for (const Feature& feature : v30.features()) {
    if (feature.type == FeatureType::visual) continue;
    EXPECT_TRUE(bitwise_equal(v30.column(feature.name), v21.column(feature.name))) << feature.name;
  }
}

TEST(Dataset, RefusesOptionsItCannotServe) {
  EXPECT_THAT(open_refusal("v30_png", {.episodes = {0, 2}}),
              HasSubstr("numbers below 2, the episodes of the dataset, found 2"));
  EXPECT_THAT(open_refusal("v30_png", {.episodes = {1, 1}}), HasSubstr("1 twice"));
  EXPECT_THAT(open_refusal("v30_png", {.episodes = {-1}}), HasSubstr("found -1"));
  EXPECT_THAT(open_refusal("v30_png", {.deltas = {{"actoin", {0}}}}),
              AllOf(HasSubstr("'actoin'"), HasSubstr("'action'")));
  EXPECT_THAT(open_refusal("v30_png", {.deltas = {{"action", {}}}}), HasSubstr("deltas of 'action'"));
  EXPECT_THAT(open_refusal("v30_png", {.deltas = {{"action", {5'000'000}}}}), HasSubstr("within 1000000 frames"));
  EXPECT_THAT(open_refusal("v30_png", {.cameras = {"observation.images.wrist"}}),
              AllOf(HasSubstr("cameras"), HasSubstr("'observation.images.corner'")));
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_png"));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(dataset.sample(41)); }), HasSubstr("0 to 40, found 41"));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(dataset.frame_at(-1)); }), HasSubstr("found -1"));
}

TEST(Dataset, FolderThatIsNoDatasetIsSaidToBeNone) {
  const test::TemporaryFolder folder;
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(LeRobotDataset::open(folder.path())); }),
              HasSubstr("no 'meta' folder in it"));
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(LeRobotDataset::open(folder / "absent")); }),
              HasSubstr("nothing there"));
}

TEST(DatasetDigest, IsTheSameForEveryViewAndEveryOpening) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_av1"));
  EXPECT_EQ(dataset.digest().size(), 64U);
  EXPECT_EQ(LeRobotDataset::open(given_set("v30_av1"), {.episodes = {1}, .decode_images = false}).digest(),
            dataset.digest());
  EXPECT_NE(LeRobotDataset::open(given_set("v30_png")).digest(), dataset.digest());
}

TEST(DatasetDigest, ChangesWithAnyFileThatASampleComesFrom) {
  const test::DatasetCopy copy("v30_av1");
  const LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  std::set<std::string> digests{dataset.digest()};
  // A later time alone: what was encoded anew may well have the old size.
  for (const char* file : {"data/chunk-000/file-000.parquet", "videos/observation.images.corner/chunk-000/file-000.mp4",
                           "videos/observation.images.wrist/chunk-000/file-000.mp4"}) {
    const std::filesystem::path path = copy / file;
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::seconds(1));
    EXPECT_TRUE(digests.insert(dataset.digest()).second) << file;
  }
  for (const char* file : {"meta/info.json", "meta/stats.json", "meta/tasks.parquet"}) {
    copy.edit_bytes(file, [](std::string& bytes) { bytes.back() = static_cast<char>(bytes.back() ^ 1); });
    EXPECT_TRUE(digests.insert(dataset.digest()).second) << file;
  }
}

TEST(DatasetDigest, OfMetaIsOfContentsNotOfTimes) {
  const test::DatasetCopy copy("v30_png");
  const LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  const std::string before = dataset.digest();
  std::filesystem::last_write_time(copy / "meta/info.json", std::filesystem::file_time_type::clock::now());
  test::write_file(copy / "meta/.lock", "another program's");
  EXPECT_EQ(dataset.digest(), before);
  std::filesystem::rename(copy / "meta/stats.json", copy / "meta/statistics.json");
  EXPECT_NE(dataset.digest(), before) << "a name counts";
}

TEST(DatasetDigest, NamesTheFileThatIsGone) {
  const test::DatasetCopy copy("v30_png");
  const LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  std::filesystem::remove(copy / "data/chunk-000/file-000.parquet");
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(dataset.digest()); }), HasSubstr("file-000.parquet"));
}

TEST(DeltaIndices, AreWholeFrames) {
  const DeltaIndices indices =
      delta_indices({{"action", {0.0, 1.0 / 30, 2.0 / 30}}, {"observation.state", {-0.1, 0.0}}}, 30.0);
  EXPECT_THAT(indices.at("action"), ElementsAre(0, 1, 2));
  EXPECT_THAT(indices.at("observation.state"), ElementsAre(-3, 0));
}

TEST(DeltaIndices, OffsetsBetweenFramesAreAllListed) {
  const auto between = [] { static_cast<void>(delta_indices({{"action", {0.0, 0.05}}, {"state", {0.34}}}, 30.0)); };
  EXPECT_THAT(message_of<UsageError>(between),
              AllOf(HasSubstr("0.05 of 'action'"), HasSubstr("0.34 of 'state'"), HasSubstr("1/30")));
  const auto not_a_number = [] { static_cast<void>(delta_indices({{"action", {std::nan("")}}}, 30.0)); };
  EXPECT_THAT(message_of<UsageError>(not_a_number), HasSubstr("nan of 'action'"));
}

/// Digest of every picture by (camera, frame), read in the given order.
std::map<std::string, std::string> digests(const LeRobotDataset& dataset, const std::vector<std::int64_t>& order) {
  std::map<std::string, std::string> found;
  for (const std::int64_t position : order) {
    for (const auto& [key, tensor] : dataset.sample(position).tensors) {
      if (tensor.dim() == 3) found[key + " " + std::to_string(position)] = tensor_digest(tensor);
    }
  }
  return found;
}

TEST(Dataset, RandomAccessGivesThePicturesOfASequentialPass) {
  for (const std::filesystem::path& set : test::expected_sets()) {
    SCOPED_TRACE(set.string());
    const std::int64_t frames = std::min<std::int64_t>(LeRobotDataset::open(set).size(), 150);
    std::vector<std::int64_t> forward(static_cast<std::size_t>(frames));
    std::iota(forward.begin(), forward.end(), std::int64_t{0});
    const auto expected = digests(LeRobotDataset::open(set), forward);
    const auto shuffled = random_permutation({.seed = 5, .stream = RandomStream::test}, frames);
    EXPECT_EQ(digests(LeRobotDataset::open(set), shuffled), expected);
    EXPECT_EQ(digests(LeRobotDataset::open(set), {forward.rbegin(), forward.rend()}), expected);
    std::set<std::string> distinct;
    for (const auto& [where, digest] : expected) distinct.insert(digest);
    EXPECT_GT(distinct.size(), expected.size() / 2) << "a set that repeats its pictures tests nothing";
  }
}

TEST(Dataset, ManyThreadsReadWhatOneReads) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_av1"));
  const auto order = random_permutation({.seed = 9, .stream = RandomStream::test}, 80);
  std::vector<std::string> expected;
  for (const std::int64_t position : order)
    expected.push_back(tensor_digest(dataset.sample(position).tensors.at(kCorner)));
  std::vector<std::string> found(order.size());
  std::atomic<std::size_t> next{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 6; ++t) {
      threads.emplace_back([&] {
        for (std::size_t i = next++; i < order.size(); i = next++)
          found[i] = tensor_digest(dataset.sample(order[i]).tensors.at(kCorner));
      });
    }
  }
  EXPECT_EQ(found, expected);
}

// --- episode split ---

TEST(EpisodeSplit, HoldsOutTheLastEpisodesOfEveryTask) {
  const LeRobotDataset dataset =
      LeRobotDataset::open(given_set("v30_av1"), {.decode_images = false});  // 3 tasks x 4, alternating
  const EpisodeSplit split = split_episodes(dataset, 0.25);
  EXPECT_THAT(split.held_out, ElementsAre(9, 10, 11));
  EXPECT_THAT(split.training, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_EQ(split_episodes(dataset, 0.26).held_out.size(), 6U) << "ceil(4 * 0.26) = 2 of each task";
  EXPECT_TRUE(split_episodes(dataset, 0.0).held_out.empty());
}

TEST(EpisodeSplit, ActsOnTheSelectedEpisodes) {
  const LeRobotDataset dataset =
      LeRobotDataset::open(given_set("v30_av1"), {.episodes = {0, 3, 1}, .decode_images = false});
  const EpisodeSplit split = split_episodes(dataset, 0.5);
  EXPECT_THAT(split.training, ElementsAre(0));
  EXPECT_THAT(split.held_out, ElementsAre(1, 3));
}

TEST(EpisodeSplit, RefusesToLeaveNothing) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_png"), {.decode_images = false});
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(split_episodes(dataset, 0.1)); }), HasSubstr("none of 2"));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(split_episodes(dataset, 1.0)); }), HasSubstr("below 1"));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(split_episodes(dataset, std::nan(""))); }),
              HasSubstr("below 1"));
}

}  // namespace
}  // namespace thaw::dataset_test
