// Bad input through the command: one clear message, exit code 2, nothing written, nothing lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <chrono>
#include <functional>
#include <thread>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::hostile_input_test {
namespace {

namespace fs = std::filesystem;
using test::CommandResult;
using test::run_thaw;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

const fs::path kSource = thaw::test::source_dir();
const fs::path kBase = kSource / "tests/golden/checkpoint_smolvla/pretrained_model";
const fs::path kTokenizer = kSource / "tests/golden/checkpoint_smolvla/tokenizer";
const fs::path kDatasets = kSource / "tests/data/metaworld_tiny";
constexpr const char* kKey = "model.state_proj.weight";

/// A copy of the embedded checkpoint and dataset that a case damages, and a run folder that must not come into being.
struct World {
  TemporaryFolder folder;
  fs::path base = folder / "base";
  fs::path dataset = folder / "data";
  fs::path run = folder / "run";

  World() {
    fs::copy(kBase, base, fs::copy_options::recursive);
    fs::copy(kDatasets / "v30_av1", dataset, fs::copy_options::recursive);
  }

  [[nodiscard]] CommandResult train(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"train", "--policy",    base,   "--tokenizer", kTokenizer, "--dataset",
                                       dataset, "--output",    run,    "--steps",     "1",        "--batch-size",
                                       "2",     "--precision", "fp32", "--quiet"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_thaw(arguments);
  }

  void edit_json(const fs::path& file, const std::function<void(Json&)>& edit) const {
    Json json = read_json(file);
    edit(json);
    test::write_file(file, json.dump(2));
  }

  void edit_weights(const std::function<void(std::map<std::string, at::Tensor>&)>& edit) const {
    std::map<std::string, at::Tensor> weights = read_safetensors(base / "model.safetensors");
    edit(weights);
    std::vector<NamedTensor> tensors;
    for (const auto& [name, tensor] : weights) tensors.push_back({name, tensor});
    write_safetensors(base / "model.safetensors", tensors, {{"format", "pt"}});
  }

  void truncate(const fs::path& file, double share) const {
    fs::resize_file(file, static_cast<std::uintmax_t>(static_cast<double>(fs::file_size(file)) * share));
  }
};

struct Case {
  std::string name;
  std::function<void(World&)> damage;
  std::vector<std::string> said;        ///< each must be in the message
  std::vector<std::string> more_flags;  ///< of train
};

void PrintTo(const Case& bad, std::ostream* out) { *out << bad.name; }

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"MissingPolicyFolder", [](World& w) { fs::remove_all(w.base); }, {"base"}, {}},
      {"MissingWeights", [](World& w) { fs::remove(w.base / "model.safetensors"); }, {"model.safetensors"}, {}},
      {"TruncatedWeights", [](World& w) { w.truncate(w.base / "model.safetensors", 0.7); }, {"model.safetensors"}, {}},
      {"TruncatedHeader", [](World& w) { w.truncate(w.base / "model.safetensors", 0.001); }, {"model.safetensors"}, {}},
      {"PickleForWeights",
       [](World& w) { test::write_file(w.base / "model.safetensors", "\x80\x02}q\x01X\x05" + std::string(100, 'a')); },
       {"model.safetensors", "pickle"},
       {}},
      {"HtmlPageForWeights",
       [](World& w) { test::write_file(w.base / "model.safetensors", "<!DOCTYPE html><html>404 not found</html>"); },
       {"model.safetensors", "HTML"},
       {}},
      {"LfsPointerForWeights",
       [](World& w) {
         test::write_file(w.base / "model.safetensors",
                          "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 906712520\n");
       },
       {"model.safetensors", "LFS"},
       {}},
      {"MissingTensor", [](World& w) { w.edit_weights([](auto& t) { t.erase(kKey); }); }, {kKey}, {}},
      {"UnknownTensor",
       [](World& w) { w.edit_weights([](auto& t) { t["model.state_projj.weight"] = at::zeros({2}); }); },
       {"model.state_projj.weight"},
       {}},
      {"MisshapenTensor",
       [](World& w) { w.edit_weights([](auto& t) {
                        t[kKey] = at::zeros({3, 5});
                      }); },
       {kKey, "3, 5"},
       {}},
      {"IntegersForWeights",
       [](World& w) { w.edit_weights([](auto& t) { t[kKey] = t[kKey].to(at::kLong); }); },
       {kKey},
       {}},
      {"NonFiniteWeights",
       [](World& w) { w.edit_weights([](auto& t) { t[kKey].view(-1)[0] = std::numeric_limits<float>::quiet_NaN(); }); },
       {kKey},
       {}},
      {"InvalidJson",
       [](World& w) { test::write_file(w.base / "config.json", "{\"type\": \"smolvla\","); },
       {"config.json"},
       {}},
      {"UnknownPolicyType",
       [](World& w) { w.edit_json(w.base / "config.json", [](Json& j) { j["type"] = "smolvlaa"; }); },
       {"smolvlaa", "smolvla"},
       {}},
      {"UnknownProcessorStep",
       [](World& w) {
         w.edit_json(w.base / "policy_preprocessor.json",
                     [](Json& j) { j["steps"][3]["registry_name"] = "tokeniser_processor"; });
       },
       {"tokeniser_processor", "tokenizer_processor"},
       {}},
      {"MissingTokenizer",
       [](World& w) { fs::create_directory(w.folder / "empty"); },
       {"tokenizer"},
       {"--tokenizer", "empty"}},
      {"MissingDataset", [](World& w) { fs::remove_all(w.dataset); }, {"data"}, {}},
      {"WrongFrameCount",
       [](World& w) { w.edit_json(w.dataset / "meta/info.json", [](Json& j) { j["total_frames"] = 9999; }); },
       {"9999", "442"},
       {}},
      {"WrongEpisodeCount",
       [](World& w) { w.edit_json(w.dataset / "meta/info.json", [](Json& j) { j["total_episodes"] = 13; }); },
       {"13", "12"},
       {}},
      {"ZeroFps",
       [](World& w) { w.edit_json(w.dataset / "meta/info.json", [](Json& j) { j["fps"] = 0; }); },
       {"fps"},
       {}},
      {"OtherFps",
       [](World& w) { w.edit_json(w.dataset / "meta/info.json", [](Json& j) { j["fps"] = 30; }); },
       {"30", "40"},
       {}},
      {"MissingColumn",
       [](World& w) {
         w.edit_json(w.dataset / "meta/info.json",
                     [](Json& j) { j["features"]["observation.velocity"] = j["features"]["observation.state"]; });
       },
       {"observation.velocity"},
       {}},
      {"MissingVideo",
       [](World& w) { fs::remove(w.dataset / "videos/observation.images.wrist/chunk-000/file-000.mp4"); },
       {"observation.images.wrist"},
       {}},
      {"TruncatedVideo",
       [](World& w) { w.truncate(w.dataset / "videos/observation.images.wrist/chunk-000/file-000.mp4", 0.5); },
       {"observation.images.wrist"},
       {}},
      {"TruncatedParquet",
       [](World& w) { w.truncate(w.dataset / "data/chunk-000/file-000.parquet", 0.9); },
       {"file-000.parquet"},
       {}},
      {"PathOutOfTheDataset",
       [](World& w) {
         w.edit_json(w.dataset / "meta/info.json",
                     [](Json& j) { j["data_path"] = "../../{chunk_index:03d}/{file_index:03d}.parquet"; });
       },
       {"data_path"},
       {}},
      {"MissingCamera",
       [](World& w) {
         fs::remove_all(w.dataset);
         fs::copy(kDatasets / "v30_h264", w.dataset, fs::copy_options::recursive);
       },
       {"observation.images.wrist", "observation.images.corner"},
       {}},
      {"MisspeltFlag", [](World&) {}, {"--stpes", "--steps"}, {"--stpes", "3"}},
      {"MisspeltStack", [](World&) {}, {"langauge", "language"}, {"--freeze", "langauge=2"}},
      {"PatternThatMatchesNothing", [](World&) {}, {"*state_porj*", "state_proj"}, {"--freeze", "train:*state_porj*"}},
      {"FreezeThatTrainsNothing", [](World&) {}, {"train"}, {"--freeze", "*=none,freeze:*"}},
      {"MoreBlocksThanThereAre", [](World&) {}, {"language"}, {"--freeze", "language=99"}},
      {"NegativeAccumulation", [](World&) {}, {"accumulation", "-1"}, {"--accumulation", "-1"}},
      {"UnknownSchedule", [](World&) {}, {"cosinus", "cosine"}, {"--schedule", "cosinus"}},
  };
  return all;
}

class HostileInput : public testing::TestWithParam<Case> {};

TEST_P(HostileInput, EndsInOneMessageExitTwoAndNothingWritten) {
  World world;
  GetParam().damage(world);
  const std::string before = test::listing(world.folder.path());
  std::vector<std::string> flags = GetParam().more_flags;
  for (std::string& flag : flags) {
    if (flag == "empty") flag = world.folder / "empty";
  }
  if (!flags.empty() && flags.front() == "--tokenizer") {
    const CommandResult result = run_thaw({"train", "--policy", world.base, "--tokenizer", flags.back(), "--dataset",
                                           world.dataset, "--output", world.run, "--steps", "1", "--quiet"});
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(GetParam().said.front()));
    EXPECT_EQ(test::listing(world.folder.path()), before);
    return;
  }
  const CommandResult result = world.train(flags);
  EXPECT_EQ(result.code, 2) << result.out << result.err;
  for (const std::string& text : GetParam().said) EXPECT_THAT(result.err, HasSubstr(text));
  EXPECT_EQ(test::listing(world.folder.path()), before) << "something was written or lost";
}

INSTANTIATE_TEST_SUITE_P(All, HostileInput, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& one) { return one.param.name; });

TEST(HostileInput, AnOutputFolderInUseByAnotherRunIsRefused) {
  World world;
  test::Command first({"train", "--policy", world.base, "--tokenizer", kTokenizer, "--dataset", world.dataset,
                       "--output", world.run, "--steps", "100000", "--batch-size", "2", "--precision", "fp32",
                       "--log-every", "1", "--quiet"});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (!fs::exists(world.run / "plan.json") && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const CommandResult second = world.train();
  EXPECT_EQ(second.code, 2);
  EXPECT_THAT(second.err, AllOf(HasSubstr("run"), HasSubstr(std::to_string(first.process()))));
  kill(first.process(), SIGTERM);
  EXPECT_EQ(first.wait().code, 143) << "the first run must go on undisturbed";
}

TEST(HostileInput, AFolderThatHoldsARunIsNotOverwritten) {
  World world;
  ASSERT_EQ(world.train().code, 0);
  const std::string before = test::listing(world.run);
  const CommandResult again = world.train();
  EXPECT_EQ(again.code, 2);
  EXPECT_THAT(again.err, HasSubstr("--resume"));
  EXPECT_EQ(test::listing(world.run), before);
}

TEST(HostileInput, AFullDiskEndsInOneMessageAndLosesNothing) {
  World world;
  const fs::path small = world.folder / "small";
  fs::create_directory(small);
  if (mount("thaw-test", small.c_str(), "tmpfs", 0, "size=256k") != 0)
    GTEST_SKIP() << "mounting a small volume needs root";
  world.run = small / "run";
  const CommandResult result = world.train();
  const std::string left = test::listing(small);
  umount2(small.c_str(), MNT_DETACH);
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("free"), HasSubstr("run")));
  EXPECT_THAT(left, testing::Not(HasSubstr(".safetensors"))) << "half-written files: " << left;
}

TEST(HostileInput, MergeDoesNotTouchAFolderThatExists) {
  World world;
  ASSERT_EQ(world.train().code, 0);
  const std::string before = test::listing(world.base);
  const CommandResult merged = run_thaw({"merge", world.run, "--output", world.base});
  EXPECT_EQ(merged.code, 2);
  EXPECT_THAT(merged.err, HasSubstr("base"));
  EXPECT_EQ(test::listing(world.base), before);
}

TEST(HostileInput, AHeadIsRefusedByAnotherBase) {
  World world;
  ASSERT_EQ(world.train().code, 0);
  world.edit_weights([](auto& tensors) { tensors["model.action_out_proj.bias"].add_(1); });
  const CommandResult merged = run_thaw({"merge", world.run, "--output", world.folder / "merged"});
  EXPECT_EQ(merged.code, 2);
  EXPECT_FALSE(fs::exists(world.folder / "merged"));
}

/// THAW_HOSTILE_DIR: a folder of safetensors files and expected.tsv (tests/hostile/README.md).
TEST(HostileInput, InspectGivesTheExpectedVerdictOnEveryMalformedFile) {
  const char* folder = std::getenv("THAW_HOSTILE_DIR");
  if (folder == nullptr) GTEST_SKIP() << "THAW_HOSTILE_DIR is not set (scripts/test sets it)";
  std::istringstream verdicts(test::read_file(fs::path(folder) / "expected.tsv"));
  std::string line;
  std::getline(verdicts, line);
  int files = 0;
  while (std::getline(verdicts, line)) {
    const std::string name = line.substr(0, line.find('\t'));
    const bool accept = line.find("\taccept\t") != std::string::npos;
    const CommandResult result = run_thaw({"inspect", fs::path(folder) / name});
    EXPECT_EQ(result.code, accept ? 0 : 2) << name << ": " << result.err;
    ++files;
  }
  EXPECT_GE(files, 80);
}

}  // namespace
}  // namespace thaw::hostile_input_test
