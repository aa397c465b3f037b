#include <gmock/gmock.h>

#include <map>

#include "../../src/data/camera_impl.h"
#include "../../src/data/image_impl.h"
#include "../../src/data/video_impl.h"
#include "data/dataset_fixture.h"
#include "thaw/tensor/digest.h"

namespace thaw::lerobot::video_test {
namespace {

using test::DatasetCopy;
using test::given_set;
using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

const char* const kAv1 = "videos/observation.images.corner/chunk-000/file-000.mp4";

VideoIndex index_of(const std::string& set, const std::string& file = kAv1) {
  return index_video(given_set(set) / file, file);
}

/// What index_video says about a damaged copy of the AV1 file (header in front).
std::string refusal_of(const std::function<void(std::string&)>& damage, const std::string& set = "v30_av1") {
  const test::TemporaryFolder folder;
  std::string bytes = test::read_file(given_set(set) / kAv1);
  damage(bytes);
  const fs::path path = folder.write("video.mp4", bytes);
  return message_of<FormatError>([&] { static_cast<void>(index_video(path, "video.mp4")); });
}

void replace(std::string& bytes, const std::string& from, const std::string& to) {
  const std::size_t at = bytes.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  bytes.replace(at, from.size(), to);
}

TEST(VideoIndex, CountsFramesAndHonoursTheEditList) {
  const VideoIndex av1 = index_of("v30_av1");
  EXPECT_EQ(av1.frames(), 442);
  EXPECT_EQ(av1.codec, "av1");
  EXPECT_NEAR(av1.fps, 40.0, 1e-9);
  EXPECT_EQ(av1.width, 96);
  const VideoIndex h264 = index_of("v30_h264");  // its edit list begins one frame in, composition offsets shift it back
  EXPECT_EQ(h264.frames(), 112);
  EXPECT_EQ(h264.pts.front(), 0);
  EXPECT_NEAR(h264.fps, 20.0, 1e-9);
}

TEST(VideoIndex, FindsTheNearestFrameAndTheKeyBefore) {
  VideoIndex index{.seconds_per_tick = 0.01, .pts = {0, 10, 20, 30, 40}, .keys = {{0, -5}, {20, 15}}};
  EXPECT_EQ(index.nearest(-1.0), 0);
  EXPECT_EQ(index.nearest(0.14), 1);
  EXPECT_EQ(index.nearest(0.16), 2);
  EXPECT_EQ(index.nearest(9.0), 4);
  EXPECT_EQ(index.key_of(1).dts, -5);
  EXPECT_EQ(index.key_of(2).dts, 15);
  EXPECT_EQ(index.key_of(4).dts, 15);
}

TEST(VideoIndex, NamesWhatIsNoVideo) {
  EXPECT_THAT(refusal_of([](std::string& b) { b.clear(); }), HasSubstr("an empty file"));
  EXPECT_THAT(refusal_of([](std::string& b) { b = "<!DOCTYPE html><html>404</html>"; }), HasSubstr("HTML page"));
  EXPECT_THAT(refusal_of([](std::string& b) { b = "version https://git-lfs.github.com/spec/v1\noid sha256:0"; }),
              HasSubstr("git lfs pull"));
  EXPECT_THAT(refusal_of([](std::string& b) { b = "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\nfile:///etc/passwd\n"; }),
              HasSubstr("a playlist"));
  EXPECT_THAT(refusal_of([](std::string& b) { b = std::string(100, '\0'); }),
              HasSubstr("expected a complete MP4 file"));
}

TEST(VideoIndex, NamesWhereAFileIsCutOff) {
  EXPECT_THAT(refusal_of([](std::string& b) { b.resize(b.size() - 500); }),
              AllOf(HasSubstr("cut off inside its 'mdat' box"), HasSubstr("again")));
  EXPECT_THAT(refusal_of([](std::string& b) { b.resize(b.find("mdat") - 4); }),
              HasSubstr("the end of the file in frame 0"));
  EXPECT_THAT(refusal_of([](std::string& b) { b.resize(b.find("mdat") - 100); }),
              HasSubstr("cut off inside its 'moov' box"));
  EXPECT_THAT(refusal_of([](std::string& b) { replace(b, "moov", "free"); }),
              AllOf(HasSubstr("no 'moov' box"), HasSubstr("not finished")));
}

TEST(VideoIndex, SurvivesBoxSizesThatCannotBe) {
  const auto with_moov_size = [](std::string size) {
    return refusal_of([&](std::string& b) { b.replace(b.find("moov") - 4, 4, size); });
  };
  EXPECT_THAT(with_moov_size(std::string("\0\0\0\x07", 4)), HasSubstr("a box of 7 bytes"));
  EXPECT_THAT(with_moov_size("\x7f\xff\xff\xff"), HasSubstr("cut off inside its 'moov' box"));
  EXPECT_THAT(with_moov_size(std::string("\0\0\0\x01", 4)), HasSubstr("expected a complete MP4 file"));
}

TEST(VideoIndex, RefusesOtherCodecsAndNoVideo) {
  EXPECT_THAT(refusal_of([](std::string& b) { b.replace(b.rfind("av01", b.find("mdat")), 4, "vp08"); }),
              HasSubstr("AV1, H.264, HEVC or VP9"));
  EXPECT_THAT(refusal_of([](std::string& b) { replace(b, "vide", "soun"); }), HasSubstr("no video stream"));
}

TEST(VideoIndex, RefusesSampleTablesBeyondTheFile) {
  EXPECT_THAT(refusal_of([](std::string& b) { b.replace(b.find("stco") + 12, 4, "\x7f\xff\xff\x00", 4); }),
              HasSubstr("the end of the file in frame 0"));
  EXPECT_THAT(refusal_of([](std::string& b) { b.replace(b.find("stts") + 16, 4, std::string(4, '\0')); }),
              AllOf(HasSubstr("video.mp4"), HasSubstr("time")));
}

TEST(VideoReader, DamagedFrameIsAnErrorAndTheOthersStillRead) {
  for (const char* set : {"v30_av1", "v30_h264"}) {
    const DatasetCopy copy(set);
    const VideoIndex clean = index_video(copy / kAv1, kAv1);
    std::map<std::int64_t, std::string> expected;
    VideoReader reader(std::make_shared<const VideoIndex>(clean));
    for (const std::int64_t frame : {0, 1, 100, 101}) expected[frame] = tensor_digest(reader.frame(frame));
    copy.edit_bytes(kAv1, [](std::string& bytes) {
      const std::size_t middle = bytes.find("mdat") + (bytes.size() - bytes.find("mdat")) / 2;
      for (std::size_t i = middle; i < middle + 3000; ++i) bytes[i] = static_cast<char>(i * 37);
    });
    const auto index = std::make_shared<const VideoIndex>(index_video(copy / kAv1, kAv1));
    VideoReader damaged(index);
    int errors = 0;
    for (std::int64_t frame = 0; frame < index->frames(); ++frame) {
      try {
        static_cast<void>(damaged.frame(frame));
      } catch (const FormatError& error) {
        ++errors;
        EXPECT_THAT(error.what(), HasSubstr(std::string(kAv1) + " frame " + std::to_string(frame)));
      }
    }
    EXPECT_GT(errors, 0) << set << ": a damaged picture was shown as a good one";
    EXPECT_EQ(tensor_digest(damaged.frame(0)), expected[0]) << set;
    EXPECT_EQ(tensor_digest(damaged.frame(1)), expected[1]) << set;
  }
}

// --- place_episodes ---

VideoIndex even_video(std::int64_t frames, double drift_per_frame = 0.0) {
  VideoIndex index{.label = "v.mp4", .seconds_per_tick = 1e-4, .fps = 20.0};
  for (std::int64_t f = 0; f < frames; ++f)
    index.pts.push_back(std::llround((0.05 + drift_per_frame) * static_cast<double>(f) * 1e4));
  index.keys = {{0, 0}};
  return index;
}

std::vector<std::int64_t> firsts(const VideoIndex& index, std::vector<PlacedEpisode> episodes) {
  place_episodes(index, episodes);
  std::sort(episodes.begin(), episodes.end(), [](const auto& a, const auto& b) { return a.episode < b.episode; });
  std::vector<std::int64_t> found;
  for (const PlacedEpisode& episode : episodes) found.push_back(episode.first);
  return found;
}

TEST(PlaceEpisodes, CountsThroughAFileThatHoldsJustItsEpisodes) {
  // Drift of the concatenated file has moved the last episode by more than a frame.
  const VideoIndex drifted = even_video(300, 0.0005);
  EXPECT_EQ(firsts(drifted, {{.episode = 0, .length = 100, .from_timestamp = 0.0},
                             {.episode = 1, .length = 101, .from_timestamp = 5.0},
                             {.episode = 2, .length = 99, .from_timestamp = 10.05}}),
            (std::vector<std::int64_t>{0, 100, 201}));
}

TEST(PlaceEpisodes, FollowsTimestampsInAFileThatHoldsMore) {
  EXPECT_EQ(firsts(even_video(300), {{.episode = 3, .length = 50, .from_timestamp = 10.0000001},
                                     {.episode = 2, .length = 100, .from_timestamp = 2.5}}),
            (std::vector<std::int64_t>{50, 200}));
}

TEST(PlaceEpisodes, NeverLetsEpisodesOverlap) {
  EXPECT_EQ(firsts(even_video(300), {{.episode = 0, .length = 100, .from_timestamp = 0.0},
                                     {.episode = 1, .length = 100, .from_timestamp = 4.95}}),
            (std::vector<std::int64_t>{0, 100}));
}

TEST(PlaceEpisodes, VideoTooShortIsAnErrorNamingTheEpisode) {
  std::vector<PlacedEpisode> episodes{{.episode = 0, .length = 100, .from_timestamp = 0.0},
                                      {.episode = 1, .length = 201, .from_timestamp = 5.0}};
  const VideoIndex index = even_video(300);
  EXPECT_THAT(
      message_of<MismatchError>([&] { place_episodes(index, episodes); }),
      HasSubstr(
          "v.mp4: expected 201 frames from frame 100 on for episode 1 (episode table), found a video of 300 frames"));
  std::vector<PlacedEpisode> outside{{.episode = 7, .length = 1, .from_timestamp = 99.0}};
  EXPECT_THAT(message_of<MismatchError>([&] { place_episodes(index, outside); }),
              HasSubstr("episode 7 to begin at 99.000 s"));
}

// --- images ---

TEST(DecodeImage, NamesWhatIsNoPicture) {
  const auto refusal = [](std::string_view bytes) {
    return message_of<FormatError>([&] { static_cast<void>(decode_image(bytes, "here")); });
  };
  EXPECT_THAT(refusal("<html>"), HasSubstr("here: expected a PNG or JPEG image"));
  EXPECT_THAT(refusal(std::string_view("II*\0abc", 7)), HasSubstr("TIFF"));
  EXPECT_THAT(refusal("\x89PNG\r\n\x1a\n"), HasSubstr("damaged image data"));
  EXPECT_THAT(refusal("\xff\xd8\xff\xe0 cut off"), HasSubstr("damaged image data"));
}

TEST(DecodeImage, RefusesPicturesThatWouldFillTheMemory) {
  // A PNG header that claims 100,000 x 100,000 pixels.
  std::string png("\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\x02\0\0\0", 29);
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(decode_image(png + std::string(64, 'x'), "here")); }),
              HasSubstr("here"));
}

}  // namespace
}  // namespace thaw::lerobot::video_test
