// thaw bench on the tiny policy: what it reports, that the parts are those of the real step, and what it refuses.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/models/registry.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/policy_task.h"

namespace thaw::bench_command_test {
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

std::vector<std::string> step_arguments(const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"bench",        "step", "--policy",      kBase, "--tokenizer", kTokenizer,
                                     "--batch-size", "2",    "--num-workers", "1",   "--threads",   "1"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

/// The command with `lines` as its standard input.
CommandResult run_with_input(const std::string& lines, const std::vector<std::string>& arguments) {
  const TemporaryFolder folder;
  test::write_file(folder / "input", lines);
  const int kept = dup(STDIN_FILENO);
  const int input = open((folder / "input").c_str(), O_RDONLY);
  dup2(input, STDIN_FILENO);
  CommandResult result = run_thaw(arguments);
  dup2(kept, STDIN_FILENO);
  close(input);
  close(kept);
  return result;
}

std::vector<Json> answers_in(const std::string& text) {
  std::vector<Json> answers;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) answers.push_back(parse_json(line, "answer"));
  return answers;
}

double number(const Json& json, const std::string& key) { return json_field<double>(json, key, "answer"); }

TEST(BenchCommand, PartsOfAStepAddUpToItsTotal) {
  const CommandResult result = run_thaw(step_arguments({"--synthetic", "--rounds", "3", "--json"}));
  ASSERT_EQ(result.code, 0) << result.err;
  const Json document = parse_json(result.out, "bench");
  ASSERT_EQ(document["rounds"].size(), 3U);
  for (const Json& round : document["rounds"]) {
    double sum = 0.0;
    for (const char* part : {"data_ms", "prefix_ms", "suffix_forward_ms", "backward_ms", "update_ms"}) {
      EXPECT_GE(number(round, part), 0.0) << part;
      sum += number(round, part);
    }
    EXPECT_NEAR(sum, number(round, "total_ms"), 1e-6);
    EXPECT_NEAR(number(round, "samples_per_s"), 2.0 / (1e-3 * number(round, "total_ms")), 1e-6);
    for (const char* part : {"prefix_ms", "suffix_forward_ms", "backward_ms"}) EXPECT_GT(number(round, part), 0.0);
    EXPECT_GT(number(round, "peak_above_baseline_bytes"), 0.0);
  }
  EXPECT_EQ(document["facts"]["threads"], 1);
  EXPECT_EQ(document["median"].count("total_ms"), 1U);
}

TEST(BenchCommand, TheWrittenInputsGiveTheLossOfTheFirstStep) {
  const TemporaryFolder folder;
  const std::string file = folder / "inputs.safetensors";
  const CommandResult result = run_with_input(
      "go\n", step_arguments({"--dataset", kDataset, "--episodes", "3", "--write-inputs", file, "--interactive"}));
  ASSERT_EQ(result.code, 0) << result.err;
  const std::vector<Json> answers = answers_in(result.out);
  ASSERT_EQ(answers.size(), 2U) << result.out;

  std::map<std::string, at::Tensor> inputs = read_safetensors(file);
  const Draw draw{.noise = inputs.at("noise"), .time = inputs.at("time")};
  const Batch batch{.tensors = inputs, .tasks = {"", ""}, .indices = {0, 1}};
  const auto policy = load_policy(kBase, {.tokenizer_folder = kTokenizer});
  const double loss = policy_loss(*policy, 0, batch, draw).item<double>();
  EXPECT_NEAR(number(answers[1], "loss"), loss, 1e-5 * loss);
}

TEST(BenchCommand, ACachedStepHasTheLossOfAnUncachedOne) {
  const auto losses = [](const std::string& cut) {
    const CommandResult result =
        run_with_input("go\ngo\n", step_arguments({"--dataset", kDataset, "--episodes", "2", "--cache", cut,
                                                   "--prefix-batch-size", "1", "--interactive"}));
    EXPECT_EQ(result.code, 0) << result.err;
    std::vector<double> values;
    for (const Json& answer : answers_in(result.out)) {
      if (answer.contains("loss")) values.push_back(number(answer, "loss"));
    }
    return values;
  };
  const std::vector<double> uncached = losses("none");
  EXPECT_EQ(uncached.size(), 2U);
  EXPECT_EQ(losses("vision"), uncached);
  EXPECT_EQ(losses("kv"), uncached);
}

TEST(BenchCommand, SharesOfTheGemmRateAreOfTheStageTimesAndOfTheStep) {
  const CommandResult result =
      run_with_input("go\ngemm vision\ngemm step\n", step_arguments({"--synthetic", "--interactive"}));
  ASSERT_EQ(result.code, 0) << result.err;
  const std::vector<Json> answers = answers_in(result.out);
  ASSERT_EQ(answers.size(), 4U) << result.out;
  const Json& step = answers[1];
  const Json& vision = answers[2];
  const Json& whole = answers[3];
  EXPECT_LE(number(vision, "seconds"), 1e-3 * number(step, "prefix_ms"));
  EXPECT_NEAR(number(whole, "seconds"), 1e-3 * number(step, "total_ms"), 1e-9);
  for (const Json& share : {vision, whole}) {
    const double rate = std::max(number(share, "plain_gemm_gflops_per_s"), number(share, "library_gemm_gflops_per_s"));
    EXPECT_NEAR(number(share, "share"), number(share, "gflop") / number(share, "seconds") / rate, 1e-9);
    EXPECT_GT(number(share, "share"), 0.0);
  }
}

TEST(BenchCommand, SamplingFromTheSameInputsGivesTheSameActionEveryTime) {
  const TemporaryFolder folder;
  const std::string file = folder / "inputs.safetensors";
  ASSERT_EQ(run_with_input("", step_arguments({"--synthetic", "--write-inputs", file, "--interactive"})).code, 0);
  const CommandResult result = run_thaw(
      {"bench", "sample", "--policy", kBase, "--tokenizer", kTokenizer, "--inputs", file, "--rounds", "2", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json rounds = parse_json(result.out, "bench")["rounds"];
  ASSERT_EQ(rounds.size(), 2U);
  EXPECT_GT(rounds[0]["chunk_first"].size(), 0U);
  EXPECT_EQ(rounds[0]["chunk_first"], rounds[1]["chunk_first"]);
}

TEST(BenchCommand, DataCountsEveryPictureOfEveryBatch) {
  const CommandResult result = run_thaw({"bench", "data", "--dataset", kDataset, "--batch-size", "8", "--batches", "3",
                                         "--rounds", "1", "--num-workers", "1", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json document = parse_json(result.out, "bench");
  const Json& round = document["rounds"][0];
  EXPECT_EQ(round["frames"], 3 * 8 * 2);
  EXPECT_NEAR(number(round, "frames_per_s"), 48.0 / number(round, "seconds"), 1e-6);
}

TEST(BenchCommand, CacheLeavesNothingBehindAndBfloat16TakesHalfTheBytes) {
  const TemporaryFolder folder;
  std::map<std::string, double> bytes;
  for (const std::string storage : {"exact", "bf16"}) {
    const CommandResult result = run_thaw({"bench", "cache", "--folder", folder / "cache", "--storage", storage,
                                           "--entries", "16", "--rounds", "1", "--json"});
    ASSERT_EQ(result.code, 0) << result.err;
    const Json document = parse_json(result.out, "bench");
    bytes[storage] = number(document["median"], "stored_bytes_per_entry");
    for (const char* rate : {"store_entries_per_s", "memory_entries_per_s", "disk_entries_per_s"}) {
      EXPECT_GT(number(document["median"], rate), 0.0) << rate;
    }
    EXPECT_FALSE(fs::exists(folder / "cache"));
  }
  EXPECT_NEAR(bytes.at("bf16") / bytes.at("exact"), 0.5, 0.01);
}

TEST(BenchCommand, AnUnknownLineOfInputEndsItWithTheNearestCommand) {
  const CommandResult result = run_with_input("go\nmemry\n", step_arguments({"--synthetic", "--interactive"}));
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("unknown command 'memry'"));
  EXPECT_THAT(result.err, HasSubstr("memory"));
}

TEST(BenchCommand, UnusableFlagsExitWithTwoAndSayWhatIsWanted) {
  const auto refused = [](const std::vector<std::string>& arguments, const std::string& words) {
    const CommandResult result = run_thaw(arguments);
    EXPECT_EQ(result.code, 2) << result.out;
    EXPECT_THAT(result.err, HasSubstr(words));
  };
  refused(step_arguments({}), "either --dataset DIR or --synthetic");
  refused(step_arguments({"--synthetic", "--dataset", kDataset}), "either --dataset DIR or --synthetic");
  refused(step_arguments({"--synthetic", "--rounds", "0"}), "--rounds: expected 1 to 10000");
  refused(step_arguments({"--synthetic", "--cache", "kv"}), "--dataset DIR, whose frames it would keep");
  refused({"bench", "step", "--policy", kBase, "--synthetic", "--threads", "-1"}, "--threads: expected 0 to 1024");
  refused(step_arguments({"--synthetic", "--batchsize", "3"}), "--batch-size");
  refused({"bench", "data", "--dataset", kDataset, "--batches", "0"}, "--batches from 1");
  refused({"bench", "cache", "--folder", kDataset}, "a folder that does not exist yet");
  refused({"bench", "cache", "--folder", "unused", "--storage", "fp8"}, "fp8");
  refused({"bench", "stop"}, "step");
  refused({"bench"}, "thaw bench --help");
}

}  // namespace
}  // namespace thaw::bench_command_test
