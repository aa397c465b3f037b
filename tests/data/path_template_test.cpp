#include <gmock/gmock.h>

#include "../../src/data/path_template_impl.h"
#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::lerobot::path_template_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string expand(const std::string& text) {
  return PathTemplate(text, {"chunk_index", "file_index"}, "info")
      .expand({.numbers = {{"chunk_index", 7}, {"file_index", 1234}}, .video_key = "observation.images.top"});
}

std::string refusal(const std::string& text) {
  return message_of<FormatError>([&] { static_cast<void>(expand(text)); });
}

TEST(PathTemplate, PadsNumbersAndKeepsLongerOnes) {
  EXPECT_EQ(expand("data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"), "data/chunk-007/file-1234.parquet");
  EXPECT_EQ(expand("videos/{video_key}/{chunk_index}.mp4"), "videos/observation.images.top/7.mp4");
  EXPECT_EQ(expand("one.parquet"), "one.parquet");
}

TEST(PathTemplate, TakesNoOtherPlaceholderThanTheKnown) {
  EXPECT_THAT(refusal("{x.__class__}"), AllOf(HasSubstr("info"), HasSubstr("'{x.__class__}'")));
  EXPECT_THAT(refusal("{0}/{1}"), HasSubstr("'{0}'"));
  EXPECT_THAT(refusal("{}"), HasSubstr("'{}'"));
  EXPECT_THAT(refusal("{episode_index:06d}"), HasSubstr("{chunk_index}"));
  EXPECT_THAT(refusal("{chunk_index!r}"), HasSubstr("{chunk_index!r}"));
}

TEST(PathTemplate, TakesNoWidthThatFillsTheDisk) {
  EXPECT_THAT(refusal("{chunk_index:0999999999d}"), HasSubstr("N from 1 to 9"));
  EXPECT_THAT(refusal("{chunk_index:03x}"), HasSubstr("{chunk_index:03x}"));
  EXPECT_THAT(refusal("{video_key:03d}"), HasSubstr("{video_key:03d}"));
}

TEST(PathTemplate, RefusesUnbalancedBraces) {
  EXPECT_THAT(refusal("data/{chunk_index"), HasSubstr("data/{chunk_index"));
  EXPECT_THAT(refusal("data/}x"), HasSubstr("data/}x"));
  EXPECT_THAT(refusal("{{chunk_index}}"), HasSubstr("{{chunk_index}"));
  EXPECT_THAT(refusal(""), HasSubstr("expected a path"));
  EXPECT_THAT(refusal(std::string(5000, 'a')), HasSubstr("expected a path"));
}

}  // namespace
}  // namespace thaw::lerobot::path_template_test
