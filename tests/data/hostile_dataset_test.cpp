// Datasets that contradict themselves: each refused with one message that says what disagrees and where.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/dataset_fixture.h"

namespace thaw::hostile_dataset_test {
namespace {

using test::DatasetCopy;
using test::message_of;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

namespace fs = std::filesystem;

const char* const kData = "data/chunk-000/file-000.parquet";
const char* const kVideo = "videos/observation.images.corner/chunk-000/file-000.mp4";
const char* const kEpisodes = "meta/episodes/chunk-000/file-000.parquet";

/// The refusal after one field of info.json was set.
template <class Kind>
std::string refusal_with(const std::string& field, const Json& value, const std::string& set = "v30_h264") {
  const DatasetCopy copy(set);
  copy.edit_info([&](Json& info) { info[field] = value; });
  return copy.refusal<Kind>();
}

// --- info.json ---

TEST(HostileDataset, UnknownKeysOfInfoAreIgnored) {
  const DatasetCopy copy("v30_png");
  copy.edit_info([](Json& info) { info["total_videos"] = "who knows"; });
  EXPECT_EQ(LeRobotDataset::open(copy.root()).size(), 41);
}

TEST(HostileDataset, InfoThatIsNoInfoIsNamed) {
  const auto refusal = [](const std::string& text) {
    const DatasetCopy copy("v30_png");
    test::write_file(copy / "meta/info.json", text);
    return copy.refusal<FormatError>();
  };
  EXPECT_THAT(refusal("{"), HasSubstr("info.json"));
  EXPECT_THAT(refusal("[]"), AllOf(HasSubstr("meta/info.json"), HasSubstr("codebase_version")));
  EXPECT_THAT(refusal("<html>404</html>"), HasSubstr("info.json"));
  EXPECT_THAT(refusal(R"({"codebase_version": "v3.0", "fps": NaN})"), HasSubstr("found NaN"));
  EXPECT_THAT(refusal(R"({"codebase_version": "v3.0"})"), HasSubstr("'fps'"));
  EXPECT_THAT(refusal(std::string(40'000, '[')), HasSubstr("info.json"));
}

TEST(HostileDataset, MissingInfoIsAnIoError) {
  const DatasetCopy copy("v30_png");
  fs::remove(copy / "meta/info.json");
  EXPECT_THAT(copy.refusal<IoError>(), AllOf(HasSubstr("meta/info.json"), HasSubstr("No such file")));
}

TEST(HostileDataset, OtherFormatVersionsSayHowToConvert) {
  const auto refusal = [](const char* version) { return refusal_with<FormatError>("codebase_version", version); };
  EXPECT_THAT(refusal("v2.0"),
              AllOf(HasSubstr("expected v3.0 or v2.1, found 'v2.0'"), HasSubstr("convert_dataset_v20_to_v21")));
  EXPECT_THAT(refusal("v1.6"), AllOf(HasSubstr("'v1.6'"), HasSubstr("v2.0")));
  EXPECT_THAT(refusal("v4.0"), AllOf(HasSubstr("'v4.0'"), HasSubstr("does not know")));
  EXPECT_THAT(refusal("../../etc"), HasSubstr("expected v3.0 or v2.1"));
}

TEST(HostileDataset, CountsThatDisagreeAreAllInOneMessage) {
  const DatasetCopy copy("v30_h264");
  copy.edit_info([](Json& info) {
    info["total_episodes"] = 7;
    info["total_frames"] = 113;
    info["total_tasks"] = 2;
  });
  EXPECT_THAT(
      copy.refusal<MismatchError>(),
      AllOf(HasSubstr("3 problems"), HasSubstr("'total_episodes': expected 6, as in the episode table, found 7"),
            HasSubstr("'total_frames': expected 112, as in the episode table, found 113"),
            HasSubstr("'total_tasks': expected 3, as in the task table, found 2")));
}

TEST(HostileDataset, CountsThatAreNoCountsAreRefused) {
  EXPECT_THAT(refusal_with<FormatError>("total_frames", "112"), HasSubstr("total_frames"));
  EXPECT_THAT(refusal_with<FormatError>("total_frames", 112.5), HasSubstr("total_frames"));
  EXPECT_THAT(refusal_with<FormatError>("total_frames", -112), HasSubstr("total_frames"));
  EXPECT_THAT(refusal_with<FormatError>("total_frames", std::uint64_t{1} << 60), HasSubstr("total_frames"));
  EXPECT_THAT(refusal_with<FormatError>("chunks_size", 0), HasSubstr("chunks_size"));
}

TEST(HostileDataset, RatesThatCannotBeAreRefused) {
  EXPECT_THAT(refusal_with<FormatError>("fps", 0), HasSubstr("'fps': expected frames a second, above 0, found 0"));
  EXPECT_THAT(refusal_with<FormatError>("fps", -20), HasSubstr("found -20"));
  EXPECT_THAT(refusal_with<FormatError>("fps", 1e300), HasSubstr("'fps'"));
  EXPECT_THAT(refusal_with<FormatError>("fps", "20"), HasSubstr("fps"));
}

TEST(HostileDataset, RateOtherThanTheVideosIsNamedWithBoth) {
  EXPECT_THAT(refusal_with<MismatchError>("fps", 30),
              AllOf(HasSubstr(kVideo), HasSubstr("30 frames a second"), HasSubstr("found 20")));
}

TEST(HostileDataset, PathTemplatesStayInTheDataset) {
  const auto data = [](const char* path) { return refusal_with<FormatError>("data_path", path); };
  EXPECT_THAT(data("../../{chunk_index}/{file_index}"), AllOf(HasSubstr("'data_path'"), HasSubstr("..")));
  EXPECT_THAT(data("/etc/passwd"), AllOf(HasSubstr("'data_path'"), HasSubstr("absolute")));
  EXPECT_THAT(data("{x.__class__}"), HasSubstr("{x.__class__}"));
  EXPECT_THAT(data("{chunk_index:0999999999d}"), HasSubstr("N from 1 to 9"));
  const auto video = [](const char* path) { return refusal_with<FormatError>("video_path", path); };
  EXPECT_THAT(video("../{video_key}.mp4"), AllOf(HasSubstr("'video_path'"), HasSubstr("..")));
  EXPECT_THAT(video("http://host/{video_key}.mp4"), Not(HasSubstr("nothing was thrown")));
}

TEST(HostileDataset, SymbolicLinksOutOfTheDatasetAreRefused) {
  const DatasetCopy copy("v30_h264");
  const test::TemporaryFolder elsewhere;
  fs::rename(copy / kData, elsewhere / "frames.parquet");
  fs::create_symlink(elsewhere / "frames.parquet", copy / kData);
  EXPECT_THAT(copy.refusal<FormatError>(), HasSubstr("a symbolic link leads to"));
}

TEST(HostileDataset, FeaturesThatCannotBeAreRefused) {
  const auto with_shape = [](const Json& shape) {
    const DatasetCopy copy("v30_h264");
    copy.edit_info([&](Json& info) { info["features"]["action"]["shape"] = shape; });
    return copy.refusal<FormatError>();
  };
  EXPECT_THAT(with_shape({0}), HasSubstr("feature 'action'"));
  EXPECT_THAT(with_shape({-4}), HasSubstr("positive sizes"));
  EXPECT_THAT(with_shape({1 << 20, 1 << 20, 1 << 20, 1 << 20}), HasSubstr("at most 16777216 elements"));
  EXPECT_THAT(with_shape(Json::array()), HasSubstr("1 to 5"));
  EXPECT_THAT(with_shape("4"), HasSubstr("shape"));
  EXPECT_THAT(refusal_with<FormatError>("features", Json::object()), HasSubstr("1 to 10000 features"));
  const DatasetCopy copy("v30_h264");
  copy.edit_info([](Json& info) {
    const Json action = info["features"]["action"];
    info["features"]["a/b"] = action;
  });
  EXPECT_THAT(copy.refusal<FormatError>(), HasSubstr("a name without '/'"));
  const DatasetCopy other("v30_h264");
  other.edit_info([](Json& info) { info["features"]["action"]["dtype"] = "complex64"; });
  EXPECT_THAT(other.refusal<FormatError>(), HasSubstr("'complex64'"));
}

TEST(HostileDataset, ColumnsThatInfoListsMustBeThereWithTheirShape) {
  const DatasetCopy copy("v30_h264");
  copy.edit_info([](Json& info) {
    info["features"]["observation.force"] = {{"dtype", "float32"}, {"shape", {3}}, {"names", nullptr}};
    info["features"]["action"]["shape"] = {5};
  });
  EXPECT_THAT(copy.refusal<FormatError>(),
              AllOf(HasSubstr("2 problems"), HasSubstr("expected a column 'observation.force', found none"),
                    HasSubstr(std::string(kData) +
                              " column 'action' row 0: expected a list of 5 values (info.json), found 4")));
}

TEST(HostileDataset, ColumnOfAnotherTypeIsNamed) {
  const DatasetCopy copy("v30_h264");
  copy.edit_info([](Json& info) {
    info["features"]["action"]["dtype"] = "int64";
    info["features"]["next.done"]["dtype"] = "float32";
  });
  EXPECT_THAT(copy.refusal<FormatError>(), AllOf(HasSubstr("column 'action': expected Long, found float"),
                                                 HasSubstr("column 'next.done': expected Float, found bool")));
}

TEST(HostileDataset, DefaultColumnsAreNeeded) {
  const DatasetCopy copy("v30_h264");
  copy.edit_info([](Json& info) { info["features"].erase("task_index"); });
  EXPECT_THAT(copy.refusal<MismatchError>(), HasSubstr("'task_index'"));
}

TEST(HostileDataset, VideoFeaturesNeedAVideoPath) {
  EXPECT_THAT(refusal_with<FormatError>("video_path", nullptr), HasSubstr("'video_path'"));
}

TEST(HostileDataset, PictureSizeOtherThanInfosIsNamed) {
  const DatasetCopy copy("v30_h264");
  copy.edit_info([](Json& info) { info["features"]["observation.images.corner"]["shape"] = {96, 128, 3}; });
  EXPECT_THAT(copy.refusal<MismatchError>(),
              AllOf(HasSubstr(kVideo), HasSubstr("96 x 128 pixels"), HasSubstr("found 96 x 96")));
}

TEST(HostileDataset, CameraThatIsNoRgbIsLeftOut) {
  const DatasetCopy copy("v30_h264");
  copy.edit_info([](Json& info) { info["features"]["observation.images.corner"]["info"]["is_depth_map"] = true; });
  const LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  EXPECT_EQ(find_feature(dataset.features(), "observation.images.corner"), nullptr);
  EXPECT_FALSE(dataset.sample(0).tensors.contains("observation.images.corner"));
}

TEST(HostileDataset, ChannelsFirstShapesAreUnderstood) {
  const DatasetCopy copy("v30_h264");
  copy.edit_info([](Json& info) {
    info["features"]["observation.images.corner"]["shape"] = {3, 96, 96};
    info["features"]["observation.images.corner"]["names"] = {"channels", "height", "width"};
  });
  EXPECT_EQ(LeRobotDataset::open(copy.root()).sample(0).tensors.at("observation.images.corner").sizes(),
            at::IntArrayRef({3, 96, 96}));
}

// --- files ---

TEST(HostileDataset, MissingFilesAreNamed) {
  for (const char* file : {kData, kVideo}) {
    const DatasetCopy copy("v30_h264");
    fs::remove(copy / file);
    EXPECT_THAT(copy.refusal<IoError>(), AllOf(HasSubstr(file), HasSubstr("No such file")));
  }
  for (const char* file : {kEpisodes, "meta/tasks.parquet"}) {
    const DatasetCopy copy("v30_h264");
    fs::remove(copy / file);
    EXPECT_THAT(copy.refusal<IoError>(), HasSubstr(fs::path(file).parent_path().parent_path().string()));
  }
  const DatasetCopy v21("v21_av1");
  fs::remove(v21 / "data/chunk-000/episode_000003.parquet");
  fs::remove(v21 / "videos/chunk-000/observation.images.corner/episode_000001.mp4");
  EXPECT_THAT(v21.refusal<IoError>(),
              AllOf(HasSubstr("2 problems"), HasSubstr("episode_000003.parquet"), HasSubstr("episode_000001.mp4")));
}

TEST(HostileDataset, UnreadableFileIsAQuestionOfPermission) {
  if (::geteuid() == 0) GTEST_SKIP() << "root reads everything";
  const DatasetCopy copy("v30_h264");
  ::chmod((copy / kVideo).c_str(), 0);
  EXPECT_THAT(copy.refusal<IoError>(), AllOf(HasSubstr(kVideo), HasSubstr("ermission")));
}

TEST(HostileDataset, FolderInPlaceOfAFileIsNamed) {
  const DatasetCopy copy("v30_h264");
  fs::remove(copy / kVideo);
  fs::create_directory(copy / kVideo);
  EXPECT_THAT(copy.refusal<IoError>(), AllOf(HasSubstr(kVideo), HasSubstr("a folder")));
}

TEST(HostileDataset, ParquetWithoutFooterMeansTheRecordingStopped) {
  const DatasetCopy copy("v30_h264");
  fs::resize_file(copy / kData, fs::file_size(copy / kData) / 2);
  EXPECT_THAT(copy.refusal<FormatError>(), AllOf(HasSubstr(kData), HasSubstr("PAR1"), HasSubstr("finalize()")));
}

TEST(HostileDataset, OtherContentNamedParquetIsNamedAsWhatItIs) {
  const auto refusal = [](const char* file, const std::string& content) {
    const DatasetCopy copy("v30_h264");
    test::write_file(copy / file, content);
    return copy.refusal<FormatError>();
  };
  EXPECT_THAT(refusal(kData, "<html><body>Not found</body></html>"),
              AllOf(HasSubstr(kData), HasSubstr("an HTML page")));
  EXPECT_THAT(refusal(kData, ""), HasSubstr("an empty file"));
  EXPECT_THAT(refusal("meta/tasks.parquet", "version https://git-lfs.github.com/spec/v1\n"),
              AllOf(HasSubstr("meta/tasks.parquet"), HasSubstr("git lfs pull")));
  EXPECT_THAT(refusal(kEpisodes, "PAR1PAR1"), HasSubstr(kEpisodes));
  EXPECT_THAT(refusal(kData, std::string("PAR1") + std::string(100, '\xff') + "PAR1"), HasSubstr(kData));
}

TEST(HostileDataset, DamagedParquetFooterNeverCrashes) {
  const std::string clean = test::read_file(test::given_set("v30_h264") / kData);
  const std::size_t footer = clean.size() - 3000;
  int refused = 0;
  for (std::size_t step = 0; step < 60; ++step) {
    const DatasetCopy copy("v30_h264");
    copy.edit_bytes(kData, [&](std::string& bytes) {
      bytes[footer + step * 49] = static_cast<char>(bytes[footer + step * 49] ^ 0x5a);
    });
    try {
      static_cast<void>(LeRobotDataset::open(copy.root(), {.decode_images = false}));
    } catch (const Error& error) {
      ++refused;
      EXPECT_THAT(error.what(), HasSubstr("dataset '"));
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(HostileDataset, CutOffVideoIsNamed) {
  const DatasetCopy v30("v30_av1");  // header in front: everything but the last group of pictures is there
  fs::resize_file(v30 / kVideo, fs::file_size(v30 / kVideo) - 300);
  EXPECT_THAT(v30.refusal<FormatError>(), AllOf(HasSubstr(kVideo), HasSubstr("cut off")));
  const DatasetCopy v21("v21_av1");  // header at the end
  const std::string file = "videos/chunk-000/observation.images.corner/episode_000002.mp4";
  fs::resize_file(v21 / file, fs::file_size(v21 / file) - 300);
  EXPECT_THAT(v21.refusal<FormatError>(), AllOf(HasSubstr(file), HasSubstr("cut off")));
}

TEST(HostileDataset, VideoOfAnotherLengthIsNamed) {
  const DatasetCopy shorter("v30_h264");  // the files of other sets, with fewer frames
  fs::copy_file(test::given_set("v21_av1") / "videos/chunk-000/observation.images.corner/episode_000001.mp4",
                shorter / kVideo, fs::copy_options::overwrite_existing);
  EXPECT_THAT(shorter.refusal<MismatchError>(), AllOf(HasSubstr(kVideo), HasSubstr("a video"), HasSubstr("25 frames")));
  const DatasetCopy swapped("v21_av1");
  const std::string folder = "videos/chunk-000/observation.images.corner/";
  fs::copy_file(swapped / (folder + "episode_000001.mp4"), swapped / (folder + "episode_000003.mp4"),
                fs::copy_options::overwrite_existing);
  EXPECT_THAT(swapped.refusal<MismatchError>(), HasSubstr("expected 10 frames, the length of episode 3, found 25"));
}

// --- v2.1's tables ---

TEST(HostileDataset, LinesOfTheEpisodeTableAreChecked) {
  const auto refusal = [](const std::string& from, const std::string& to) {
    const DatasetCopy copy("v21_av1");
    copy.edit_bytes("meta/episodes.jsonl", [&](std::string& text) { text.replace(text.find(from), from.size(), to); });
    return message_of<Error>([&] { static_cast<void>(LeRobotDataset::open(copy.root())); });
  };
  EXPECT_THAT(refusal(R"("length": 16)", R"("length": 17)"),
              AllOf(HasSubstr("'total_frames'"), HasSubstr("episode_000000.parquet: expected 17 rows"),
                    HasSubstr("expected 17 frames, the length of episode 0, found 16")));
  EXPECT_THAT(refusal(R"("length": 16)", R"("length": -1)"), HasSubstr("'length'"));
  EXPECT_THAT(refusal(R"("episode_index": 2)", R"("episode_index": 3)"),
              HasSubstr("row 2 'episode_index': expected 2: episodes are numbered without gaps, found 3"));
  EXPECT_THAT(refusal(R"("length": 18})", R"("length": 18)"), HasSubstr("episodes.jsonl"));
}

TEST(HostileDataset, TasksThatFramesNameMustExist) {
  const DatasetCopy copy("v21_av1");
  test::write_file(copy / "meta/tasks.jsonl", R"({"task_index": 0, "task": "Reach a goal position"})");
  copy.edit_info([](Json& info) { info["total_tasks"] = 1; });
  EXPECT_THAT(copy.refusal<MismatchError>(),
              HasSubstr("column 'task_index' row 0 (episode 1): expected one of the 1 tasks in meta/tasks, found 1"));
}

TEST(HostileDataset, LongListsOfProblemsAreCut) {
  const DatasetCopy copy("v21_av1");
  fs::remove_all(copy / "data");
  fs::remove_all(copy / "videos");
  copy.edit_info([](Json& info) {
    const Json camera = info["features"]["observation.images.corner"];
    for (const char* name : {"extra1", "extra2", "extra3"}) info["features"][name] = camera;
  });
  EXPECT_THAT(copy.refusal<IoError>(), AllOf(HasSubstr("30 problems"), EndsWith("… and 10 more")));
}

// --- pictures that fail when read ---

TEST(HostileDataset, DamagedPictureIsNamedWhenItIsRead) {
  const DatasetCopy copy("v30_png");
  copy.edit_bytes(kData, [](std::string& bytes) {
    const std::size_t png = bytes.find("IDAT");
    for (std::size_t i = png + 8; i < png + 600; ++i) bytes[i] = 'x';
  });
  const LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(dataset.sample(0)); }),
              AllOf(HasSubstr(kData), HasSubstr("observation.images.corner")));
}

TEST(HostileDataset, FileThatVanishesAfterOpenIsAnErrorOfTheSample) {
  const DatasetCopy copy("v30_h264");
  const LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  fs::remove(copy / kVideo);
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(dataset.sample(0)); }), HasSubstr(kVideo));
}

}  // namespace
}  // namespace thaw::hostile_dataset_test
