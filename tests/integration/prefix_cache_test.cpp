// The prefix cache on SmolVLA through the command: every cut gives what an uncached run gives, and what changes misses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::prefix_cache_test {
namespace {

using test::CommandResult;
using test::read_file;
using test::run_thaw;
using test::TemporaryFolder;
using test::write_file;
using testing::HasSubstr;

const std::string kGolden = std::string(thaw::test::source_dir()) + "/tests/golden/checkpoint_smolvla";
const std::string kTokenizer = kGolden + "/tokenizer";
const std::string kDataset = std::string(thaw::test::source_dir()) + "/tests/data/metaworld_tiny/v30_av1";

std::vector<std::string> arguments_of(const std::string& command, const std::vector<std::string>& more,
                                      const std::string& base = kGolden + "/pretrained_model") {
  std::vector<std::string> arguments{command,  "--policy",     base, "--tokenizer",   kTokenizer, "--dataset",
                                     kDataset, "--batch-size", "3",  "--num-workers", "2",        "--quiet"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const bool has_precision = std::find(more.begin(), more.end(), "--precision") != more.end();
  if (!has_precision) arguments.insert(arguments.end(), {"--precision", "fp32"});
  return arguments;
}

/// Bytes of the head after ten steps.
std::string trained_head(const std::string& run, std::vector<std::string> more) {
  more.insert(more.end(), {"--steps", "10", "--output", run, "--prefix-batch-size", "1"});
  const CommandResult result = run_thaw(arguments_of("train", more));
  EXPECT_EQ(result.code, 0) << result.err;
  return read_file(run + "/heads/last/head.safetensors");
}

Json filled(const std::string& cache, std::vector<std::string> more = {},
            const std::string& base = kGolden + "/pretrained_model") {
  more.insert(more.end(), {"--cache-dir", cache, "--json"});
  if (std::find(more.begin(), more.end(), "--cache") == more.end()) more.insert(more.end(), {"--cache", "kv"});
  const CommandResult result = run_thaw(arguments_of("cache", more, base));
  EXPECT_EQ(result.code, 0) << result.err;
  return parse_json(result.out, "thaw cache");
}

TEST(CacheCommand, EveryCutGivesTheHeadOfAnUncachedRunByteForByte) {
  const TemporaryFolder folder;
  const std::string plain = trained_head(folder / "plain", {"--cache", "none"});
  ASSERT_FALSE(plain.empty());
  for (const std::string cut : {"kv", "hidden", "vision", "auto"}) {
    EXPECT_TRUE(trained_head(folder / ("memory_" + cut), {"--cache", cut}) == plain) << cut;
    const std::string cache = folder / ("cache_" + cut);
    EXPECT_TRUE(trained_head(folder / ("disk_" + cut), {"--cache", cut, "--cache-dir", cache}) == plain) << cut;
    EXPECT_TRUE(trained_head(folder / ("again_" + cut), {"--cache", cut, "--cache-dir", cache}) == plain) << cut;
  }
}

TEST(CheckpointActivations, GiveTheHeadOfAPlainRunUpToTheOrderInWhichGradientsAreAdded) {
  const TemporaryFolder folder;
  static_cast<void>(trained_head(folder / "plain", {"--freeze", "language=1"}));
  static_cast<void>(trained_head(folder / "again", {"--freeze", "language=1", "--checkpoint-activations"}));
  const auto plain = read_safetensors(folder / "plain/heads/last/head.safetensors");
  const auto again = read_safetensors(folder / "again/heads/last/head.safetensors");
  ASSERT_EQ(plain.size(), again.size());
  for (const auto& [name, tensor] : plain) {
    const auto result = compare_tensors(again.at(name), tensor, {.absolute = 1e-6, .relative_to_max = 1e-3});
    EXPECT_TRUE(result) << name << ": " << result.message;
  }
}

TEST(CacheCommand, FilledCacheServesTrainingWithoutComputingAPrefixAndPassesItsCheckInEveryPrecision) {
  for (const std::string precision : {"fp32", "bf16"}) {
    const TemporaryFolder folder;
    const std::string cache = folder / "cache";
    const Json first = filled(cache, {"--precision", precision});
    EXPECT_TRUE(first["complete"].get<bool>());
    EXPECT_EQ(first["stored"], first["entries"]);
    EXPECT_EQ(filled(cache, {"--precision", precision})["stored"], 0);
    const CommandResult result =
        run_thaw(arguments_of("train", {"--steps", "4", "--output", folder / "run", "--cache", "kv", "--cache-dir",
                                        cache, "--check-cache", "1", "--precision", precision}));
    ASSERT_EQ(result.code, 0) << precision << result.err;
    EXPECT_THAT(result.err, HasSubstr(" 0 computed"));
  }
}

TEST(CacheCommand, AnotherConfigurationAndAnotherFormOfStorageMiss) {
  const TemporaryFolder folder;
  const std::string cache = folder / "cache";
  const Json first = filled(cache);
  const std::string base = folder / "base";
  std::filesystem::copy(kGolden + "/pretrained_model", base, std::filesystem::copy_options::recursive);
  EXPECT_EQ(filled(cache, {}, base)["stored"], 0);
  Json config = parse_json(read_file(base + "/config.json"), "config.json");
  config["tokenizer_max_length"] = config["tokenizer_max_length"].get<int>() - 1;
  write_file(base + "/config.json", config.dump());
  EXPECT_EQ(filled(cache, {}, base)["stored"], first["stored"]);
  EXPECT_EQ(filled(cache, {"--cache-storage", "bf16"})["stored"], first["stored"]);
  EXPECT_EQ(filled(cache)["stored"], 0);
}

TEST(CacheCommand, CutBehindWhatTrainsIsRefusedAndNothingIsWritten) {
  const TemporaryFolder folder;
  const CommandResult result =
      run_thaw(arguments_of("cache", {"--freeze", "vision=1", "--cache", "kv", "--cache-dir", folder / "cache"}));
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("cache kv"));
  EXPECT_FALSE(std::filesystem::exists(folder / "cache"));
}

TEST(CacheCommand, UnusableFlagsAreRefused) {
  const TemporaryFolder folder;
  const auto error_of = [&](const std::vector<std::string>& more) {
    const CommandResult result = run_thaw(arguments_of("cache", more));
    EXPECT_EQ(result.code, 2);
    return result.err;
  };
  EXPECT_THAT(error_of({"--cache", "kv"}), HasSubstr("--cache-dir"));
  EXPECT_THAT(error_of({"--cache", "kvs", "--cache-dir", folder / "c"}), HasSubstr("none, auto, vision, hidden or kv"));
  EXPECT_THAT(error_of({"--cache", "kv", "--cache-dir", folder / "c", "--cache-memory", "much"}),
              HasSubstr("--cache-memory"));
  EXPECT_THAT(error_of({"--cache", "kv", "--cache-dir", folder / "c", "--check-cache", "2"}),
              HasSubstr("prefix.check"));
}

}  // namespace
}  // namespace thaw::prefix_cache_test
