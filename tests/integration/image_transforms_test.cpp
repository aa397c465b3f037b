// Image transforms on SmolVLA through the command: fixed views can be cached and give what an uncached run gives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/core/json.h"

namespace thaw::image_transforms_test {
namespace {

using test::CommandResult;
using test::read_file;
using test::run_thaw;
using test::TemporaryFolder;
using test::write_file;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kGolden = std::string(thaw::test::source_dir()) + "/tests/golden/checkpoint_smolvla";
const std::string kDataset = std::string(thaw::test::source_dir()) + "/tests/data/metaworld_tiny/v30_h264";

using Words = std::vector<std::string>;

CommandResult run(const std::string& command, const Words& more) {
  Words arguments{command,
                  "--policy",
                  kGolden + "/pretrained_model",
                  "--tokenizer",
                  kGolden + "/tokenizer",
                  "--dataset",
                  kDataset,
                  "--allow-missing-cameras",
                  "--episodes",
                  "0",
                  "--batch-size",
                  "8",
                  "--quiet",
                  "--precision",
                  "fp32"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_thaw(arguments);
}

/// Bytes of the head after `steps` steps; two are a pass over the episode.
std::string trained_head(const std::string& folder, const std::string& steps, Words more) {
  more.insert(more.end(), {"--steps", steps, "--output", folder, "--prefix-batch-size", "1"});
  const CommandResult result = run("train", more);
  EXPECT_EQ(result.code, 0) << result.err;
  return read_file(folder + "/heads/last/head.safetensors");
}

TEST(ImageTransformsCommand, CachedViewsGiveTheHeadOfTheSameViewsUncachedByteForByte) {
  const TemporaryFolder folder;
  const Words views{"--image-transforms", "--views", "2", "--image-transforms-set", "hue.weight=0"};
  const auto with = [&](Words more) {
    more.insert(more.end(), views.begin(), views.end());
    return more;
  };
  const std::string plain = trained_head(folder / "plain", "5", with({}));
  ASSERT_FALSE(plain.empty());
  for (const std::string cut : {"kv", "vision"}) {
    const Words cache{"--cache", cut, "--cache-dir", folder / ("cache_" + cut), "--num-workers", "1"};
    EXPECT_TRUE(trained_head(folder / ("first_" + cut), "5", with(cache)) == plain) << cut;
  }
}

TEST(ImageTransformsCommand, FlagsAreWrittenToTheRunAndMayComeFromAFile) {
  const TemporaryFolder folder;
  const Words random{"--image-transforms",
                     "--image-transforms-max",
                     "2",
                     "--image-transforms-random-order",
                     "--image-transforms-set",
                     "brightness=0.5:1.5,affine.degrees=-9:9"};
  const std::string whole = trained_head(folder / "whole", "2", random);
  EXPECT_THAT(read_file(folder / "whole/config.toml"),
              AllOf(HasSubstr("image-transforms = true"), HasSubstr("image-transforms-max = 2"),
                    HasSubstr("image-transforms-random-order = true"),
                    HasSubstr("brightness=0.5:1.5,affine.degrees=-9:9"), HasSubstr("views = 0")));
  write_file(folder / "flags.toml",
             "image_transforms = true\nimage_transforms_max = 2\nimage_transforms_random_order = true\n"
             "image_transforms_set = [\"brightness=0.5:1.5\", \"affine.degrees=-9:9\"]\n");
  EXPECT_TRUE(trained_head(folder / "from_file", "2", {"--config-file", folder / "flags.toml"}) == whole);
}

TEST(ImageTransformsCommand, FillsEveryViewAndSaysHowMany) {
  const TemporaryFolder folder;
  const Words flags{"--image-transforms", "--views", "3", "--cache", "vision", "--cache-dir", folder / "cache"};
  const auto filled = [&](Words more) {
    more.insert(more.end(), flags.begin(), flags.end());
    const CommandResult result = run("cache", more);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  };
  const Json first = parse_json(filled({"--json"}), "thaw cache");
  const CommandResult recorded = run("cache", {"--cache", "vision", "--cache-dir", folder / "other", "--json"});
  const Json plain = parse_json(recorded.out, "thaw cache");
  EXPECT_EQ(first["stored"].get<std::int64_t>(), 3 * plain["stored"].get<std::int64_t>());
  EXPECT_THAT(filled({}), HasSubstr(" views in the cache, 0 of them computed now"));
}

TEST(ImageTransformsCommand, CacheOfOpenEndedPicturesIsRefusedAndNothingIsWritten) {
  const TemporaryFolder folder;
  for (const std::string command : {"cache", "train"}) {
    const CommandResult result = run(
        command, {"--image-transforms", "--cache", "kv", "--cache-dir", folder / "cache", "--output", folder / "run"});
    EXPECT_EQ(result.code, 2);
    EXPECT_THAT(result.err, AllOf(HasSubstr("--views 4"), HasSubstr("--cache none")));
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "cache"));
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}

TEST(ImageTransformsCommand, UnusableFlagsAreRefused) {
  const TemporaryFolder folder;
  const auto error_of = [&](Words more) {
    more.insert(more.end(), {"--output", folder / "run"});
    const CommandResult result = run("train", more);
    EXPECT_EQ(result.code, 2);
    return result.err;
  };
  EXPECT_THAT(error_of({"--views", "4"}), HasSubstr("--image-transforms"));
  EXPECT_THAT(error_of({"--image-transforms", "--image-transforms-set", "brigtness=0:1"}),
              HasSubstr("Did you mean 'brightness'"));
  EXPECT_THAT(error_of({"--image-transforms", "--image-transforms-set", "hue=0.2:0.9"}), HasSubstr("-0.5 to 0.5"));
  EXPECT_THAT(error_of({"--image-transforms", "--image-transforms-max", "0"}), HasSubstr("max_num_transforms"));
}

TEST(ImageTransformsCommand, PlanCountsEveryView) {
  const auto forecast_with = [](const Words& more) {
    Words arguments{
        "plan",        "--policy", kGolden + "/pretrained_model", "--dataset", kDataset, "--cache", "vision", "--json",
        "--calibrate", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CommandResult result = run_thaw(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return parse_json(result.out, "thaw plan")["forecasts"][0];
  };
  const Json one = forecast_with({});
  const Json four = forecast_with({"--views", "4"});
  ASSERT_GT(one["cache_bytes_per_frame"].get<double>(), 0.0);
  EXPECT_EQ(four["cache_bytes_per_frame"].get<double>(), 4 * one["cache_bytes_per_frame"].get<double>());
  EXPECT_EQ(four["cache_bytes"].get<double>(), 4 * one["cache_bytes"].get<double>());
  const auto text_with = [](const std::string& views) {
    return run_thaw({"plan", "--policy", kGolden + "/pretrained_model", "--calibrate", "0", "--views", views});
  };
  EXPECT_THAT(text_with("4").out, HasSubstr("a cache keeps 4 views of a frame"));
  EXPECT_THAT(text_with("1").out, Not(HasSubstr("views")));
  EXPECT_EQ(text_with("0").code, 2);
}

}  // namespace
}  // namespace thaw::image_transforms_test
