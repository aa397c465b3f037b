// Pruning SmolVLA through the command: what is written trains, freezes and caches as any checkpoint does.
#include "thaw/study/prune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/models/registry.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::prune_test {
namespace {

using test::CommandResult;
using test::read_file;
using test::run_thaw;
using test::TemporaryFolder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kGolden = std::string(thaw::test::source_dir()) + "/tests/golden/checkpoint_smolvla";
const std::string kBase = kGolden + "/pretrained_model";
const std::string kTokenizer = kGolden + "/tokenizer";
const std::string kDataset = std::string(thaw::test::source_dir()) + "/tests/data/metaworld_tiny/v30_av1";
const std::vector<std::string> kCalibration{"--dataset", kDataset, "--tokenizer", kTokenizer, "--samples", "6"};

std::vector<std::string> joined(std::vector<std::string> first, const std::vector<std::string>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

CommandResult prune(const std::string& output, const std::vector<std::string>& more) {
  return run_thaw(joined({"prune", "--policy", kBase, "--output", output}, more));
}

Json pruned(const std::string& output, const std::vector<std::string>& more) {
  const CommandResult result = prune(output, joined(more, {"--json"}));
  EXPECT_EQ(result.code, 0) << result.err;
  return parse_json(result.out, "thaw prune");
}

std::vector<std::int64_t> removed_from(const Json& report, const std::string& stack) {
  for (const Json& one : report["stacks"]) {
    if (one["name"] == stack) return one["removed"].get<std::vector<std::int64_t>>();
  }
  return {-1};
}

/// Bytes of the head after six steps.
std::string trained_head(const std::string& base, const std::string& run, const std::vector<std::string>& more) {
  const CommandResult result = run_thaw(joined({"train",
                                                "--policy",
                                                base,
                                                "--tokenizer",
                                                kTokenizer,
                                                "--dataset",
                                                kDataset,
                                                "--freeze",
                                                "language=0,expert=1",
                                                "--batch-size",
                                                "3",
                                                "--steps",
                                                "6",
                                                "--num-workers",
                                                "1",
                                                "--quiet",
                                                "--precision",
                                                "fp32",
                                                "--prefix-batch-size",
                                                "1",
                                                "--output",
                                                run},
                                               more));
  EXPECT_EQ(result.code, 0) << result.err;
  return read_file(run + "/heads/last/head.safetensors");
}

TEST(PruneCommand, PrunedFrozenAndCachedTrainingEqualsTheSameWithoutACacheBitForBit) {
  const TemporaryFolder folder;
  const std::string base = folder / "pruned";
  EXPECT_THAT(removed_from(pruned(base, {"--blocks", "1,2"}), "expert"), ElementsAre(1, 2));
  const std::string plain = trained_head(base, folder / "plain", {"--cache", "none"});
  ASSERT_FALSE(plain.empty());
  EXPECT_TRUE(trained_head(base, folder / "memory", {"--cache", "kv"}) == plain);
  const std::string cache = folder / "cache";
  EXPECT_TRUE(trained_head(base, folder / "disk", {"--cache", "kv", "--cache-dir", cache}) == plain);
  EXPECT_TRUE(trained_head(base, folder / "again", {"--cache", "kv", "--cache-dir", cache}) == plain);
  const CommandResult verified = run_thaw({"verify", folder / "disk"});
  EXPECT_EQ(verified.code, 0) << verified.err;
}

TEST(PruneCommand, WritesTheRemainingTensorsUnchangedUnderTheirNewNumbers) {
  const TemporaryFolder folder;
  static_cast<void>(pruned(folder / "pruned", {"--blocks", "1-2", "--stack", "expert"}));
  const auto before = read_safetensors(kBase + "/model.safetensors");
  const auto after = read_safetensors(folder / "pruned" / "model.safetensors");
  std::size_t renumbered = 0;
  for (const auto& [name, tensor] : after) {
    std::string old = name;
    for (const std::string stack : {"lm_expert.layers.", "text_model.layers."}) {
      const std::size_t place = old.find(stack + "1.");
      if (place != std::string::npos) old[place + stack.size()] = '3';
    }
    renumbered += old == name ? 0 : 1;
    ASSERT_TRUE(before.contains(old)) << name;
    EXPECT_TRUE(bitwise_equal(tensor, before.at(old))) << name;
  }
  EXPECT_EQ(renumbered, 18U);
  EXPECT_EQ(before.size() - after.size(), 36U);
  const Json config = read_json(folder / "pruned" / "config.json");
  EXPECT_EQ(config["num_vlm_layers"], 2);
}

TEST(PruneCommand, EveryMethodChoosesOnTheCalibrationFramesAndSaysWhy) {
  const TemporaryFolder folder;
  for (const std::string method : {"clp", "gate-probe", "block-influence"}) {
    const Json report =
        pruned(folder / method, joined({"--method", method, "--remove", "2", "--threshold", "0.99"}, kCalibration));
    const auto removed = removed_from(report, "language");
    EXPECT_EQ(removed.size(), 2U) << method;
    EXPECT_EQ(removed, removed_from(report, "expert")) << method;
    EXPECT_TRUE(keeps_period(left_over(4, removed), 2)) << method;
    EXPECT_EQ(report["why"]["method"], method);
    EXPECT_EQ(report["why"]["calibration"]["frames"].size(), 6U);
    EXPECT_EQ(report["why"]["scores"]["expert"].size(), 4U);
    EXPECT_EQ(report["why"].contains("runs"), method == "clp");
    EXPECT_EQ(read_json(folder / method / "pruning.json"), report);
    EXPECT_LT(report["parameters_after"], report["parameters_before"]);
  }
}

TEST(PruneCommand, SameSeedChoosesTheSameAndAnotherLooksAtOtherFrames) {
  const TemporaryFolder folder;
  const std::vector<std::string> flags = joined({"--remove", "2"}, kCalibration);
  const Json first = pruned(folder / "first", flags);
  EXPECT_EQ(pruned(folder / "again", flags), first);
  const Json other = pruned(folder / "other", joined(flags, {"--seed", "7"}));
  EXPECT_NE(other["why"]["calibration"]["frames"], first["why"]["calibration"]["frames"]);
}

TEST(PruneCommand, PublishedListIsTheSameByPresetAndByHand) {
  const TemporaryFolder folder;
  // the published depth with everything else small
  Json config = read_json(kBase + "/config.json");
  Json vlm = read_json(kBase + "/vlm_config.json");
  config["num_vlm_layers"] = 16;
  vlm["text_config"]["num_hidden_layers"] = 16;
  test::write_file(folder / "config.json", config.dump());
  test::write_file(folder / "vlm_config.json", vlm.dump());
  const std::string base = folder / "base";
  ASSERT_EQ(run_thaw({"init", "--config", (folder / "config.json").string(), "--output", base}).code, 0);
  const auto by = [&](const std::string& name, const std::vector<std::string>& flags) {
    const CommandResult result = run_thaw(joined({"prune", "--policy", base, "--output", folder / name}, flags));
    EXPECT_EQ(result.code, 0) << result.err;
    return read_file((folder / name / "model.safetensors").string());
  };
  EXPECT_TRUE(by("preset", {"--preset", "clp-smolvla"}) == by("hand", {"--blocks", "1,2,5,6,14,15"}));
  const auto policy = load_policy(folder / "preset");
  EXPECT_EQ(policy->layout().stack("language").blocks, 10);
  EXPECT_EQ(policy->layout().stack("expert").blocks, 10);
}

TEST(PruneCommand, WhatCannotBePrunedIsRefusedAndNothingIsWritten) {
  const TemporaryFolder folder;
  const std::string output = folder / "pruned";
  const auto refusal = [&](const std::vector<std::string>& flags) {
    const CommandResult result = prune(output, flags);
    EXPECT_EQ(result.code, 2);
    EXPECT_FALSE(std::filesystem::exists(output));
    return result.err;
  };
  EXPECT_THAT(refusal({"--blocks", "1,2", "--stack", "langage"}), HasSubstr("Did you mean 'language'?"));
  EXPECT_THAT(refusal({"--blocks", "1"}), HasSubstr("period of 2"));
  EXPECT_THAT(refusal({"--blocks", "1-3"}), HasSubstr("at least 2 of 4 blocks left (the minimum), found 1"));
  EXPECT_THAT(refusal({"--blocks", "4"}), HasSubstr("expected numbers in 0..3, found 4"));
  EXPECT_THAT(refusal({"--preset", "clp-smolvl"}), HasSubstr("Did you mean 'clp-smolvla'"));
  EXPECT_THAT(refusal({"--preset", "clp-smolvla"}), HasSubstr("expected 16 blocks in stack"));
  EXPECT_THAT(refusal({"--preset", "clp-smolvla", "--blocks", "1"}), HasSubstr("no --preset beside it"));
  EXPECT_THAT(refusal({"--method", "gate-prob", "--remove", "2"}), HasSubstr("Did you mean 'gate-probe'?"));
  EXPECT_THAT(refusal({"--method", "clp", "--blocks", "1,2"}), HasSubstr("--blocks with list"));
  EXPECT_THAT(refusal({"--remove", "2"}), HasSubstr("--dataset: expected the dataset to measure on"));
  EXPECT_THAT(refusal({"--dataset", kDataset}), HasSubstr("blocks to remove: expected at least 1, found 0"));
  EXPECT_THAT(refusal({"--remove", "3", "--dataset", kDataset}), HasSubstr("found 1 with 3 removed"));
  EXPECT_THAT(refusal(joined({"--remove", "2", "--similarity", "unbiast"}, kCalibration)),
              HasSubstr("Did you mean 'unbiased'"));
  EXPECT_THAT(refusal(joined({"--remove", "2", "--group", "imag"}, kCalibration)),
              HasSubstr("group of tokens in stack"));
  EXPECT_THAT(refusal({"--remove", "2", "--dataset", kDataset, "--tokenizer", kTokenizer, "--samples", "3"}),
              AllOf(HasSubstr("group 'state'"), HasSubstr("at least 4 rows, found 3")));
}

Json inspected(const std::vector<std::string>& more) {
  const CommandResult result = run_thaw(joined(joined({"inspect", kBase, "--json"}, kCalibration), more));
  EXPECT_EQ(result.code, 0) << result.err;
  return parse_json(result.out, "thaw inspect");
}

TEST(InspectMeasures, MeasuresEveryStackByKindOfToken) {
  const TemporaryFolder folder;
  const std::string html = folder / "blocks.html";
  const Json report = inspected({"--similarity", "--html", html});
  std::map<std::string, std::set<std::string>> groups;
  for (const Json& stack : report["stacks"]) {
    for (const Json& group : stack["groups"]) groups[stack["name"]].insert(group["name"].get<std::string>());
  }
  EXPECT_THAT(groups["vision"], ElementsAre("image"));
  EXPECT_THAT(groups["language"], ElementsAre("all", "image", "state", "text"));
  EXPECT_THAT(groups["expert"], ElementsAre("action"));
  EXPECT_THAT(read_file(html), HasSubstr("language: state"));
}

TEST(InspectMeasures, PlasticityOfTheBaseItselfHasNoDivergence) {
  const Json report = inspected({"--plasticity", "--stack", "expert", "--base", kBase});
  ASSERT_EQ(report["stacks"].size(), 1U);
  const Json& expert = report["stacks"][0];
  for (const Json& value : expert["divergence"]) EXPECT_EQ(value, 0.0);
  for (const char* measure : {"relative_gradient", "fisher"}) {
    for (const Json& value : expert[measure]) EXPECT_GT(value.get<double>(), 0.0) << measure;
  }
  for (const Json& value : expert["groups"][0]["gate_probe"]) EXPECT_GT(value.get<double>(), 0.0);
}

TEST(InspectMeasures, UnknownStackAndMissingDatasetAreRefused) {
  const CommandResult unknown = run_thaw(joined({"inspect", kBase, "--similarity", "--stack", "exprt"}, kCalibration));
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("Did you mean 'expert'?"));
  const CommandResult missing = run_thaw({"inspect", kBase, "--similarity"});
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, HasSubstr("--dataset"));
  const CommandResult alone = run_thaw({"inspect", kBase, "--html", "blocks.html"});
  EXPECT_EQ(alone.code, 2);
  EXPECT_THAT(alone.err, HasSubstr("--similarity or --plasticity beside them"));
  const CommandResult weightless = run_thaw({"inspect", "--config", "smolvla_tiny", "--similarity"});
  EXPECT_EQ(weightless.code, 2);
  EXPECT_THAT(weightless.err, HasSubstr("expected a policy folder"));
}

}  // namespace
}  // namespace thaw::prune_test
