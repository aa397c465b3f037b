#include "thaw/train/checkpoint.h"

#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"
#include "toy.h"

namespace thaw::checkpoint_test {
namespace {

namespace fs = std::filesystem;

Checkpoint made_up(std::int64_t step, bool ema = true) {
  const at::Tensor weight = random_normal({.seed = static_cast<std::uint64_t>(step)}, {3, 4});
  Checkpoint checkpoint;
  checkpoint.state = {.step = step,
                      .seed = 0xffffffffffffffffULL,
                      .batch_size = 8,
                      .accumulation = 2,
                      .precision = "fp32",
                      .plan_digest = "plan",
                      .base_digest = "base",
                      .guard = {.skipped = 3, .consecutive = 1, .longest = 2},
                      .scaler = {.scale = 1024.0, .growth_tracker = 7},
                      .gradients = {{"w", {.seen = true, .effective = true}}}};
  checkpoint.head = {.info = {.policy_type = "module",
                              .base_digest = "base",
                              .plan_digest = "plan",
                              .freeze_rules = {"toy"},
                              .step = step,
                              .thaw_version = "0"},
                     .tensors = {{"w", weight}}};
  checkpoint.optimizer = {
      {"state/w/exp_avg", weight}, {"state/w/exp_avg_sq", weight.square()}, {"state/w/step", at::ones({})}};
  if (ema) checkpoint.ema = {{"w", weight + 1}};
  return checkpoint;
}

TEST(Checkpoint, ComesBackAsItWasWritten) {
  const toy::Folder folder;
  const Checkpoint written = made_up(200);
  const fs::path path = write_checkpoint(folder.path(), written);
  EXPECT_EQ(path, folder.path() / "000200");
  const Checkpoint read = read_checkpoint(path);
  EXPECT_EQ(read.state.to_json(), written.state.to_json());
  EXPECT_EQ(read.state.seed, 0xffffffffffffffffULL);
  EXPECT_BITWISE_EQUAL(read.head.tensors.at("w"), written.head.tensors.at("w"));
  EXPECT_BITWISE_EQUAL(read.ema.at("w"), written.ema.at("w"));
  for (const auto& [name, tensor] : written.optimizer) EXPECT_BITWISE_EQUAL(read.optimizer.at(name), tensor);
}

TEST(Checkpoint, EqualContentGivesEqualBytes) {
  const toy::Folder folder;
  write_checkpoint(folder.path() / "a", made_up(1));
  write_checkpoint(folder.path() / "b", made_up(1));
  for (const auto& entry : fs::directory_iterator(folder.path() / "a/000001")) {
    EXPECT_EQ(toy::file_bytes(entry.path()), toy::file_bytes(folder.path() / "b/000001" / entry.path().filename()));
  }
}

TEST(Checkpoint, EveryFlippedBitIsDetected) {
  const toy::Folder folder;
  const fs::path path = write_checkpoint(folder.path(), made_up(1));
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string good = toy::file_bytes(entry.path());
    for (std::size_t at = 0; at < good.size(); at += 1 + good.size() / 40) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
      toy::overwrite(entry.path(), bad);
      EXPECT_FALSE(checkpoint_faults(path).empty()) << entry.path() << " byte " << at;
    }
    toy::overwrite(entry.path(), good);
  }
  EXPECT_TRUE(checkpoint_faults(path).empty());
}

TEST(Checkpoint, EveryTruncationAndEveryDeletedFileIsDetected) {
  const toy::Folder folder;
  const fs::path path = write_checkpoint(folder.path(), made_up(1));
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path)) files.push_back(entry.path());
  EXPECT_EQ(files.size(), 5U);
  for (const fs::path& file : files) {
    const std::string good = toy::file_bytes(file);
    for (std::size_t length = 0; length < good.size(); length += 1 + good.size() / 20) {
      toy::overwrite(file, good.substr(0, length));
      EXPECT_FALSE(checkpoint_faults(path).empty()) << file << " cut to " << length;
    }
    fs::remove(file);
    EXPECT_THAT(fmt::format("{}", fmt::join(checkpoint_faults(path), "\n")),
                testing::HasSubstr(file.filename().string()));
    toy::overwrite(file, good);
  }
}

TEST(Checkpoint, AddedFileSwappedFilesAndEditedManifestAreDetected) {
  const toy::Folder folder;
  const fs::path path = write_checkpoint(folder.path(), made_up(1));
  toy::overwrite(path / "extra.txt", "x");
  EXPECT_THAT(checkpoint_faults(path), testing::ElementsAre(testing::HasSubstr("extra.txt is not in the manifest")));
  fs::remove(path / "extra.txt");
  const std::string head = toy::file_bytes(path / "head.safetensors");
  fs::rename(path / "ema.safetensors", path / "head.safetensors");
  toy::overwrite(path / "ema.safetensors", head);
  EXPECT_EQ(checkpoint_faults(path).size(), 2U);
}

TEST(Checkpoint, EditedManifestIsDetectedByItsOwnDigest) {
  const toy::Folder folder;
  const fs::path path = write_checkpoint(folder.path(), made_up(1));
  std::string manifest = toy::file_bytes(path / "MANIFEST.json");
  const std::size_t at = manifest.find("\"plan_digest\": \"plan\"");
  ASSERT_NE(at, std::string::npos);
  manifest.replace(at, 21, "\"plan_digest\": \"plaN\"");
  toy::overwrite(path / "MANIFEST.json", manifest);
  EXPECT_THAT(checkpoint_faults(path), testing::ElementsAre(testing::HasSubstr("was edited")));
}

TEST(Checkpoint, FaultNamesTheFileAndBothHashes) {
  const toy::Folder folder;
  const fs::path path = write_checkpoint(folder.path(), made_up(1));
  std::string state = toy::file_bytes(path / "state.json");
  state[state.find('3')] = '4';
  toy::overwrite(path / "state.json", state);
  EXPECT_THAT(toy::message_of<FormatError>([&] { (void)read_checkpoint(path); }),
              testing::ContainsRegex("state.json has SHA-256 [0-9a-f]{64}, the manifest says [0-9a-f]{64}"));
}

TEST(Checkpoint, NewestGoodOneIsTaken) {
  const toy::Folder folder;
  for (const std::int64_t step : {1, 2, 3}) write_checkpoint(folder.path(), made_up(step));
  EXPECT_EQ(newest_checkpoint(folder.path())->state.step, 3);
  fs::remove(folder.path() / "000003/MANIFEST.json");
  testing::internal::CaptureStderr();
  EXPECT_EQ(newest_checkpoint(folder.path())->state.step, 2);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::AllOf(testing::HasSubstr("passing over"), testing::HasSubstr("000003")));
  EXPECT_FALSE(newest_checkpoint(folder.path() / "none").has_value());
}

TEST(Checkpoint, RotationKeepsTheNewestAndAtLeastTwo) {
  const toy::Folder folder;
  for (const std::int64_t step : {1, 2, 3, 4}) write_checkpoint(folder.path(), made_up(step));
  fs::create_directories(folder.path() / "notes");
  rotate_checkpoints(folder.path(), 3);
  EXPECT_THAT(checkpoint_steps(folder.path()), testing::ElementsAre(2, 3, 4));
  rotate_checkpoints(folder.path(), 0);
  EXPECT_THAT(checkpoint_steps(folder.path()), testing::ElementsAre(3, 4));
  EXPECT_TRUE(fs::exists(folder.path() / "notes"));
}

TEST(Checkpoint, GoodOneOfTheSameStepStaysAndABadOneIsReplaced) {
  const toy::Folder folder;
  const fs::path path = write_checkpoint(folder.path(), made_up(1));
  const auto written = fs::last_write_time(path / "MANIFEST.json");
  write_checkpoint(folder.path(), made_up(1));
  EXPECT_EQ(fs::last_write_time(path / "MANIFEST.json"), written);
  toy::overwrite(path / "state.json", "{}");
  write_checkpoint(folder.path(), made_up(1));
  EXPECT_TRUE(checkpoint_faults(path).empty());
}

TEST(Checkpoint, WithoutAveragesThereIsNoFileForThem) {
  const toy::Folder folder;
  const fs::path path = write_checkpoint(folder.path(), made_up(1, false));
  EXPECT_FALSE(fs::exists(path / "ema.safetensors"));
  EXPECT_TRUE(read_checkpoint(path).ema.empty());
}

TEST(Checkpoint, NothingIsLeftBehindByASaveThatFails) {
  const toy::Folder folder;
  Checkpoint broken = made_up(1);
  broken.optimizer["state/w/step"] = at::zeros({2}, at::kComplexFloat);
  EXPECT_THROW((void)write_checkpoint(folder.path(), broken), Error);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(TrainingState, UnknownSchemaAndMissingFieldAreNamed) {
  Json json = made_up(1).state.to_json();
  json["schema_version"] = 99;
  EXPECT_THAT(toy::message_of<FormatError>([&] { (void)TrainingState::from_json(json, "state.json"); }),
              testing::HasSubstr("99"));
  json = made_up(1).state.to_json();
  json.erase("guard");
  EXPECT_THAT(toy::message_of<FormatError>([&] { (void)TrainingState::from_json(json, "state.json"); }),
              testing::HasSubstr("guard"));
}

}  // namespace
}  // namespace thaw::checkpoint_test
