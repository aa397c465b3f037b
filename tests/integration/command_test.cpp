// The command on real input, end to end: what a newcomer does in the first ten minutes.
#include "support/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/metrics.h"

namespace thaw::command_test {
namespace {

namespace fs = std::filesystem;
using test::CommandResult;
using test::run_thaw;
using test::TemporaryFolder;
using testing::HasSubstr;

const std::string kGolden = std::string(thaw::test::source_dir()) + "/tests/golden/checkpoint_smolvla";
const std::string kBase = kGolden + "/pretrained_model";
const std::string kTokenizer = kGolden + "/tokenizer";
const std::string kDataset = std::string(thaw::test::source_dir()) + "/tests/data/metaworld_tiny/v30_av1";

std::vector<std::string> train_arguments(const fs::path& run, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{"train",  "--policy",      kBase, "--tokenizer",  kTokenizer, "--dataset",
                                     kDataset, "--output",      run,   "--batch-size", "4",        "--precision",
                                     "fp32",   "--num-workers", "1",   "--quiet"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(Command, TrainThenVerifyThenMergeThenSampleWorksOnTheEmbeddedCheckpointAndDataset) {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  const CommandResult trained =
      run_thaw(train_arguments(run, {"--freeze", "language=2,expert=all", "--steps", "6", "--eval-split", "0.25"}));
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_THAT(trained.out, HasSubstr("held-out episodes: loss"));

  const CommandResult verified = run_thaw({"verify", run});
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;

  const CommandResult merged = run_thaw({"merge", run, "--output", folder / "merged"});
  ASSERT_EQ(merged.code, 0) << merged.err;
  const std::vector<std::string> frame{"--tokenizer", kTokenizer, "--dataset", kDataset, "--index", "20", "--json"};
  std::vector<std::string> of_merged{"sample", "--policy", folder / "merged"};
  std::vector<std::string> of_head{"sample", "--head", run};
  of_merged.insert(of_merged.end(), frame.begin(), frame.end());
  of_head.insert(of_head.end(), frame.begin(), frame.end());
  const CommandResult from_merged = run_thaw(of_merged);
  const CommandResult from_head = run_thaw(of_head);
  ASSERT_EQ(from_merged.code, 0) << from_merged.err;
  ASSERT_EQ(from_head.code, 0) << from_head.err;
  EXPECT_EQ(parse_json(from_merged.out, "merged")["predicted"], parse_json(from_head.out, "head")["predicted"]);
}

TEST(Command, AResumedRunEndsWithTheSameWeightsAsAnUninterruptedOne) {
  const TemporaryFolder folder;
  const std::string whole = folder / "whole";
  const std::string parts = folder / "parts";
  const std::vector<std::string> flags{"--no-auto-scale", "--save-every", "4", "--ema"};
  const auto with_steps = [&flags](const std::string& run, const std::string& steps) {
    std::vector<std::string> more = flags;
    more.insert(more.end(), {"--steps", steps});
    return run_thaw(train_arguments(run, more));
  };
  ASSERT_EQ(with_steps(whole, "8").code, 0);
  ASSERT_EQ(with_steps(parts, "4").code, 0);
  const CommandResult resumed = run_thaw({"train", "--resume", parts, "--steps", "8", "--quiet"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  for (const char* file : {"head.safetensors", "optimizer.safetensors", "ema.safetensors"}) {
    const fs::path place = fs::path("checkpoints/000008") / file;
    EXPECT_TRUE(test::read_file(whole / place) == test::read_file(parts / place)) << file << " differs";
  }
}

TEST(Command, SigtermFinishesTheStepSavesAndExitsWith143) {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  test::Command command(train_arguments(run, {"--steps", "100000", "--log-every", "1"}));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (test::read_file(folder / "run/metrics.jsonl").empty() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  kill(command.process(), SIGTERM);
  const CommandResult stopped = command.wait();
  EXPECT_EQ(stopped.code, 143) << stopped.err;
  EXPECT_EQ(run_thaw({"verify", run}).code, 0);
}

TEST(Command, VerifyNamesAFrozenTensorOfABaseThatWasChanged) {
  const TemporaryFolder folder;
  const std::string base = folder / "base";
  fs::copy(kBase, base);
  const std::string run = folder / "run";
  ASSERT_EQ(run_thaw(train_arguments(run, {"--steps", "2", "--policy", base})).code, 2)
      << "a flag given twice is an error";
  const CommandResult trained =
      run_thaw({"train", "--policy", base, "--tokenizer", kTokenizer, "--dataset", kDataset, "--output", run,
                "--batch-size", "2", "--steps", "2", "--precision", "fp32", "--quiet"});
  ASSERT_EQ(trained.code, 0) << trained.err;

  std::map<std::string, at::Tensor> weights = read_safetensors(base + "/model.safetensors");
  const std::string name = "model.vlm_with_expert.vlm.model.text_model.layers.1.self_attn.q_proj.weight";
  weights.at(name).view(-1)[0] += 1;
  std::vector<NamedTensor> tensors;
  for (const auto& [key, tensor] : weights) tensors.push_back({key, tensor});
  write_safetensors(base + "/model.safetensors", tensors, {{"format", "pt"}});

  const CommandResult verified = run_thaw({"verify", run});
  EXPECT_EQ(verified.code, 1);
  EXPECT_THAT(verified.out, HasSubstr(name));
}

TEST(Command, InspectCountsTheFullSizePolicyWithoutWeights) {
  const CommandResult result = run_thaw({"inspect", "--config", "smolvla"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("450,046,176 parameters"));
  EXPECT_THAT(result.out, HasSubstr("99,880,992 trainable"));
}

TEST(Command, PlanSaysWhatCausesTheGradientBoundary) {
  const CommandResult result = run_thaw({"plan", "--policy", "smolvla"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("state_proj"));
}

TEST(Command, FlagsOfAConfigFileHoldUnlessTheCommandLineSaysOtherwise) {
  const TemporaryFolder folder;
  test::write_file(folder / "plan.toml",
                   "policy = 'smolvla'\nfreeze = ['language=1', 'expert=none', 'freeze:*state_proj*']\n");
  const CommandResult from_file = run_thaw({"plan", "--config-file", folder / "plan.toml", "--json"});
  ASSERT_EQ(from_file.code, 0) << from_file.err;
  EXPECT_EQ(parse_json(from_file.out, "plan")["rules"].size(), 3U);
  const CommandResult flag_wins =
      run_thaw({"plan", "--config-file", folder / "plan.toml", "--freeze", "language=2", "--json"});
  ASSERT_EQ(flag_wins.code, 0) << flag_wins.err;
  EXPECT_EQ(parse_json(flag_wins.out, "plan")["rules"], Json::array({"language=2"}));
}

TEST(Command, InitWritesTheSameCheckpointForTheSameSeed) {
  const TemporaryFolder folder;
  for (const char* name : {"a", "b"}) {
    const CommandResult result =
        run_thaw({"init", "--config", "smolvla_tiny", "--dataset", kDataset, "--seed", "3", "--output", folder / name});
    ASSERT_EQ(result.code, 0) << result.err;
  }
  EXPECT_TRUE(test::read_file(folder / "a/model.safetensors") == test::read_file(folder / "b/model.safetensors"));
}

}  // namespace
}  // namespace thaw::command_test
