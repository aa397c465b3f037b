// thaw sweep from the command line: what it writes, how it ends, and how it goes on after being killed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "support/command.h"
#include "thaw/core/json.h"

namespace thaw {
namespace {

namespace fs = std::filesystem;
using test::CommandResult;
using test::run_thaw;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

const std::string kGolden = std::string(THAW_SOURCE_DIR) + "/tests/golden/checkpoint_smolvla";
const std::string kDataset = std::string(THAW_SOURCE_DIR) + "/tests/data/metaworld_tiny/v30_av1";
const std::vector<std::string> kBase{
    "--policy", kGolden + "/pretrained_model", "--tokenizer", kGolden + "/tokenizer", "--dataset", kDataset};

std::vector<std::string> arguments(const std::string& command, const std::string& output,
                                   const std::vector<std::string>& more) {
  std::vector<std::string> all{command};
  all.insert(all.end(), kBase.begin(), kBase.end());
  all.insert(all.end(), {"--output", output, "--batch-size", "2", "--precision", "fp32", "--num-workers", "1",
                         "--eval-split", "0.25", "--eval-samples", "4", "--quiet"});
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

std::vector<std::string> sweep_arguments(const std::string& output, const std::vector<std::string>& more = {}) {
  std::vector<std::string> grid{"--stack", "language", "--blocks", "0,1,2", "--seed", "1,2", "--steps", "2"};
  grid.insert(grid.end(), more.begin(), more.end());
  return arguments("sweep", output, grid);
}

/// results.jsonl without what time and memory were measured.
std::vector<std::string> lines(const fs::path& sweep) {
  std::vector<std::string> all;
  for (Json json : read_json_lines(sweep / "results.jsonl")) {
    json.erase("times");
    all.push_back(json.dump());
  }
  return all;
}

TEST(SweepCommand, ItWritesResultsATableAPickAndAReport) {
  const TemporaryFolder folder;
  const CommandResult result = run_thaw(sweep_arguments(folder / "sweep"));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("language=0"), HasSubstr("language=2"), HasSubstr("\n* language=")));
  EXPECT_EQ(lines(folder.path() / "sweep").size(), 6U);
  const std::string html = test::read_file(folder.path() / "sweep/report.html");
  for (const std::string& line : lines(folder.path() / "sweep")) {
    EXPECT_THAT(html, HasSubstr("id=\"r-" + parse_json(line, "line")["id"].get<std::string>()));
  }
}

TEST(SweepCommand, APointEqualsThawTrainWithTheSameOptions) {
  const TemporaryFolder folder;
  const CommandResult swept =
      run_thaw(sweep_arguments(folder / "sweep", {"--cache", "vision", "--lr", "1e-3", "--draws", "2", "--json"}));
  ASSERT_EQ(swept.code, 0) << swept.err;
  for (const Json& line : parse_json(swept.out, "sweep")["results"]) {
    const std::string blocks = std::to_string(line["blocks"]["language"].get<int>());
    const std::string seed = std::to_string(line["seed"].get<int>());
    if (seed != "2") continue;
    const CommandResult trained = run_thaw(arguments("train", folder / ("run" + blocks),
                                                     {"--freeze", "language=" + blocks, "--seed", seed, "--lr", "1e-3",
                                                      "--draws", "2", "--steps", "2", "--cache", "vision", "--json"}));
    ASSERT_EQ(trained.code, 0) << trained.err;
    const Json own = parse_json(trained.out, "train");
    EXPECT_EQ(line["held_out"]["loss"], own["held_out"]["loss"]) << blocks;
    EXPECT_EQ(line["held_out"]["action_mse"], own["held_out"]["action_mse"]) << blocks;
    EXPECT_EQ(line["training_loss"], own["loss"]) << blocks;
    EXPECT_EQ(line["head_bytes"], fs::file_size(folder.path() / ("run" + blocks) / "heads/last/head.safetensors"));
  }
}

TEST(SweepCommand, KilledAtAnyMomentAndResumedItEndsWithTheSameLines) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_thaw(sweep_arguments(folder / "calm")).code, 0);
  std::mt19937 random(7);  // NOLINT: the same moments in every run
  std::uniform_int_distribution<int> milliseconds(200, 3000);
  const fs::path sweep = folder / "killed";
  for (int kills = 0; kills < 4; ++kills) {
    const bool begun = fs::exists(sweep / "sweep.json");
    test::Command command(begun ? std::vector<std::string>{"sweep", "--resume", sweep.string(), "--quiet"}
                                : sweep_arguments(sweep.string()));
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds(random)));
    kill(command.process(), SIGKILL);
    command.wait();
  }
  const bool begun = fs::exists(sweep / "sweep.json");
  const CommandResult last = run_thaw(begun ? std::vector<std::string>{"sweep", "--resume", sweep.string(), "--quiet"}
                                            : sweep_arguments(sweep.string()));
  ASSERT_EQ(last.code, 0) << last.err;
  EXPECT_EQ(lines(sweep), lines(folder.path() / "calm"));
}

TEST(SweepCommand, WithJobsTheLinesStandInTheSameOrder) {
  const TemporaryFolder folder;
  const std::string jobs = folder / "jobs";
  const CommandResult result = run_thaw(sweep_arguments(jobs, {"--jobs", "2"}));
  ASSERT_EQ(result.code, 0) << result.err;
  std::vector<std::string> points;
  for (const std::string& line : lines(jobs)) {
    const Json json = parse_json(line, "line");
    EXPECT_FALSE(json.contains("error")) << line;
    points.push_back(json["freeze"].get<std::string>() + " " + std::to_string(json["seed"].get<int>()));
  }
  EXPECT_THAT(points, testing::ElementsAre("language=0 1", "language=0 2", "language=1 1", "language=1 2",
                                           "language=2 1", "language=2 2"));
  EXPECT_FALSE(fs::exists(fs::path(jobs) / "jobs"));
}

TEST(SweepCommand, AutoTrainsThePickAsARunThatCanBeVerifiedAndMerged) {
  const TemporaryFolder folder;
  const std::string sweep = folder / "sweep";
  const CommandResult result = run_thaw(sweep_arguments(sweep, {"--auto", "3"}));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("run: 3 steps, held-out loss"));
  EXPECT_EQ(run_thaw({"verify", sweep + "/run"}).code, 0);
  const CommandResult merged = run_thaw({"merge", sweep + "/run", "--output", folder / "merged"});
  EXPECT_EQ(merged.code, 0) << merged.err;
  const CommandResult resumed = run_thaw({"train", "--resume", sweep + "/run", "--steps", "4", "--quiet"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
}

TEST(SweepCommand, BadInputEndsBeforeAnythingIsWritten) {
  const TemporaryFolder folder;
  const auto refused = [&folder](const std::vector<std::string>& more, const std::string& message) {
    std::vector<std::string> all = arguments("sweep", folder / "sweep", more);
    const CommandResult result = run_thaw(all);
    EXPECT_EQ(result.code, 2) << result.out;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_FALSE(fs::exists(folder.path() / "sweep"));
  };
  refused({}, "an empty grid");
  refused({"--stack", "languag", "--blocks", "1"}, "Did you mean 'language'");
  refused({"--stack", "language", "--blocks", "0,99"}, "the blocks of 'language' that can learn, found 99");
  refused({"--stack", "language"}, "--blocks: expected one list");
  refused({"--blocks", "1"}, "expected --stack beside it");
  refused({"--stack", "language", "--blocks", "one"}, "--blocks");
  refused({"--stack", "language", "--blocks", "1", "--figure", "los"}, "Did you mean 'loss'");
  refused({"--stack", "language", "--blocks", "1", "--lr", "fast"}, "--lr");
  refused({"--stack", "language", "--blocks", "1", "--cost", "money"}, "parameters, memory or time");
  refused({"--stack", "language", "--blocks", "1", "--steps", "10", "--halving", "20"}, "halving.rungs");
}

TEST(SweepCommand, AnEvaluatorThatFailsIsNotedAndTheOthersGoOn) {
  const TemporaryFolder folder;
  const std::string script =
      R"(case "$THAW_POINT" in *'"language=0"'*) exit 3;; *'"language=1"'*) echo no;; *) test -s "$THAW_HEAD" && echo '{"success": 1}';; esac)";
  const CommandResult result = run_thaw(sweep_arguments(folder / "sweep", {"--evaluator", script, "--seed", "1"}));
  EXPECT_EQ(result.code, 2) << "a flag given twice";
  std::vector<std::string> once =
      arguments("sweep", folder / "sweep",
                {"--stack", "language", "--blocks", "0,1,2", "--seed", "1", "--steps", "2", "--evaluator", script});
  const CommandResult swept = run_thaw(once);
  EXPECT_EQ(swept.code, 0) << swept.err;
  const std::vector<std::string> all = lines(folder.path() / "sweep");
  ASSERT_EQ(all.size(), 3U);
  EXPECT_THAT(all[0], HasSubstr("the evaluator ended with exit code 3"));
  EXPECT_THAT(all[1], HasSubstr("printed no JSON object but 'no"));
  EXPECT_THAT(all[2], HasSubstr(R"("evaluator":{"success":1})"));
}

}  // namespace
}  // namespace thaw
