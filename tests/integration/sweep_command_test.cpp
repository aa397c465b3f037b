// thaw sweep from the command line: what it writes, how it ends, and how it goes on after being killed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/core/json.h"

namespace thaw::sweep_command_test {
namespace {

namespace fs = std::filesystem;
using test::CommandResult;
using test::run_thaw;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

const std::string kGolden = std::string(thaw::test::source_dir()) + "/tests/golden/checkpoint_smolvla";
const std::string kDataset = std::string(thaw::test::source_dir()) + "/tests/data/metaworld_tiny/v30_av1";
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

/// Times that sweeps are killed: THAW_SWEEP_KILLS, or few enough for every run of the tests.
int kills_wanted() {
  const char* wanted = std::getenv("THAW_SWEEP_KILLS");
  return wanted == nullptr ? 2 : std::stoi(wanted);
}

/// The command that begins the sweep, or goes on with it once there is something to go on with.
std::vector<std::string> begin_or_resume(const fs::path& sweep, const std::vector<std::string>& more) {
  if (!fs::exists(sweep / "sweep.json")) return sweep_arguments(sweep.string(), more);
  return {"sweep", "--resume", sweep.string(), "--quiet"};
}

/// Kills sweeps at moments drawn from the time that one takes.
class Killer {
 public:
  explicit Killer(std::chrono::milliseconds longest) : milliseconds_(0, longest.count()) {}
  [[nodiscard]] bool is_done() const { return kills_ == kills_wanted(); }

  /// Kills the sweep in `folder` and goes on with it, until it has all of its lines or there were kills enough; then
  /// lets it end.
  void kill_and_finish(const fs::path& folder, const std::vector<std::string>& more, std::size_t all) {
    for (std::size_t done = 0; done < all && !is_done(); ++kills_) {
      test::Command command(begin_or_resume(folder, more));
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds_(random_)));
      kill(command.process(), SIGKILL);
      command.wait();
      done = fs::exists(folder / "results.jsonl") ? lines(folder).size() : 0;
    }
    const CommandResult last = run_thaw(begin_or_resume(folder, more));
    EXPECT_EQ(last.code, 0) << last.err;
  }

 private:
  std::mt19937 random_{7};  // NOLINT: the same moments in every run
  std::uniform_int_distribution<std::int64_t> milliseconds_;
  int kills_ = 0;
};

void expect_killed_equals_calm(const std::vector<std::string>& more) {
  const TemporaryFolder folder;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(run_thaw(sweep_arguments(folder / "calm", more)).code, 0);
  Killer killer(std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin));
  const std::vector<std::string> calm = lines(folder.path() / "calm");
  for (int sweep = 0; !killer.is_done(); ++sweep) {
    const fs::path killed = folder / ("killed-" + std::to_string(sweep));
    killer.kill_and_finish(killed, more, calm.size());
    EXPECT_EQ(lines(killed), calm) << killed;
  }
}

TEST(SweepCommand, KilledAtAnyMomentAndResumedItEndsWithTheSameLines) { expect_killed_equals_calm({}); }

TEST(SweepCommand, KilledWhilePrunedBasesAreChosenWrittenOrTrainedItEndsWithTheSameLines) {
  expect_killed_equals_calm({"--prune", "0,2", "--prune-samples", "6"});
}

/// The same line without what only a point of a pruned base says.
std::string as_of_whole(const std::string& line) {
  Json json = parse_json(line, "line");
  json.erase("pruned");
  json.erase("removed");
  return json.dump();
}

TEST(SweepCommand, PointsOfAPrunedBaseAreThoseOfASweepOfTheCheckpointThatThawPruneWrites) {
  const TemporaryFolder folder;
  const CommandResult swept = run_thaw(sweep_arguments(folder / "both", {"--prune", "2,0", "--prune-samples", "6"}));
  ASSERT_EQ(swept.code, 0) << swept.err;
  EXPECT_THAT(swept.out, HasSubstr("language=1 with 2 pruned"));
  EXPECT_THAT(test::read_file(folder.path() / "both/report.html"), HasSubstr("■ 2 pruned"));

  const std::string pruned = folder / "pruned";
  const std::string training = "0-8";  // of the four episodes of each of three tasks, the last is held out
  const CommandResult written =
      run_thaw({"prune", "--policy", kBase[1], "--output", pruned, "--stack", "language", "--remove", "2", "--samples",
                "6", "--dataset", kDataset, "--tokenizer", kBase[3], "--episodes", training});
  ASSERT_EQ(written.code, 0) << written.err;
  EXPECT_EQ(read_json(folder.path() / "both/bases/2/pruning.json"), read_json(fs::path(pruned) / "pruning.json"));

  std::vector<std::string> of_pruned = sweep_arguments(folder / "own");
  *std::find(of_pruned.begin(), of_pruned.end(), kBase[1]) = pruned;
  ASSERT_EQ(run_thaw(sweep_arguments(folder / "whole")).code, 0);
  ASSERT_EQ(run_thaw(of_pruned).code, 0);
  std::vector<std::string> expected = lines(folder.path() / "whole");
  for (const std::string& line : lines(folder.path() / "own")) expected.push_back(line);

  std::vector<std::string> found;
  for (const std::string& line : lines(folder.path() / "both")) {
    EXPECT_EQ(line.find("\"removed\"") != std::string::npos, found.size() >= 6) << line;
    found.push_back(as_of_whole(line));
  }
  EXPECT_EQ(found, expected) << "ids and figures included";
}

TEST(SweepCommand, APrunedPickIsTrainedAtLengthOnItsOwnCheckpointWhichTheEvaluatorIsGivenToo) {
  const TemporaryFolder folder;
  const std::string sweep = folder / "sweep";
  const std::string script = R"(printf '{"base": "%s"}' "$THAW_POLICY")";
  std::vector<std::string> all =
      arguments("sweep", sweep,
                {"--stack", "language", "--blocks", "0,1", "--seed", "1", "--steps", "2", "--prune", "2",
                 "--prune-order", "2,1", "--jobs", "2", "--auto", "3", "--evaluator", script});
  const CommandResult result = run_thaw(all);
  ASSERT_EQ(result.code, 0) << result.err;
  for (const std::string& line : lines(sweep)) {
    const Json json = parse_json(line, "line");
    EXPECT_EQ(json["removed"]["language"], Json::array({1, 2})) << line;
    EXPECT_EQ(json["evaluator"]["base"], sweep + "/bases/2") << line;
  }
  EXPECT_EQ(run_thaw({"verify", sweep + "/run"}).code, 0);
  const CommandResult merged = run_thaw({"merge", sweep + "/run", "--output", folder / "merged"});
  EXPECT_EQ(merged.code, 0) << merged.err;
  EXPECT_EQ(read_json(folder / "merged/config.json")["num_vlm_layers"], 2);
  const CommandResult resumed = run_thaw({"train", "--resume", sweep + "/run", "--steps", "4", "--quiet"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
}

TEST(SweepCommand, AResumedSweepTakesMorePruneCountsButNoOtherWayToChoose) {
  const TemporaryFolder folder;
  const std::string sweep = folder / "sweep";
  ASSERT_EQ(run_thaw(sweep_arguments(sweep, {"--prune", "2", "--prune-order", "1,2"})).code, 0);
  const std::vector<std::string> before = lines(sweep);
  const auto resume = [&sweep](const std::vector<std::string>& more) {
    std::vector<std::string> all{"sweep", "--resume", sweep, "--quiet"};
    all.insert(all.end(), more.begin(), more.end());
    return run_thaw(all);
  };
  const CommandResult more = resume({"--prune", "0,2"});
  EXPECT_EQ(more.code, 0) << more.err;
  const std::vector<std::string> after = lines(sweep);
  ASSERT_EQ(after.size(), 12U);
  EXPECT_EQ(std::vector<std::string>(after.begin() + 6, after.end()), before);
  const CommandResult other = resume({"--prune-order", "2,3"});
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, HasSubstr("'pruning'"));
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

TEST(SweepCommand, WhatCannotBePrunedIsRefusedBeforeAnythingIsWritten) {
  const TemporaryFolder folder;
  const auto refused = [&folder](const std::vector<std::string>& more, const std::string& message) {
    std::vector<std::string> flags{"--stack", "language", "--blocks", "0,1"};
    flags.insert(flags.end(), more.begin(), more.end());
    const CommandResult result = run_thaw(arguments("sweep", folder / "sweep", flags));
    EXPECT_EQ(result.code, 2) << result.out;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_FALSE(fs::exists(folder.path() / "sweep"));
  };
  refused({"--prune", "0,3"}, "at least 2 of 4 blocks left (the minimum), found 1 with 3 removed");
  refused({"--prune", "1", "--prune-order", "1,2"}, "period of 2");
  refused({"--prune", "2", "--prune-order", "1"}, "at most 1, the blocks of --prune-order");
  refused({"--prune", "2,2"}, "each number once, found 2 twice");
  refused({"--prune", "two"}, "--prune");
  refused({"--prune", "2", "--prune-stack", "langage"}, "Did you mean 'language'?");
  refused({"--prune", "2", "--prune-method", "gate-prob"}, "Did you mean 'gate-probe'?");
  refused({"--prune", "2", "--prune-method", "list"}, "clp, gate-probe or block-influence");
  refused({"--prune", "2", "--prune-method", "clp", "--prune-order", "1,2"}, "no --prune-method beside it");
  refused({"--prune-method", "clp"}, "--prune beside it");
  refused({"--prune", "2", "--prune-order", "1,2", "--rules", "language=3"}, "with 2 blocks of 'language' removed");
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
}  // namespace thaw::sweep_command_test
