#include "thaw/train/merge.h"

#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/core/sha256.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/head.h"
#include "toy.h"

namespace thaw::merge_test {
namespace {

namespace fs = std::filesystem;

/// A folder as LeRobot's save_pretrained leaves it, small.
struct Base {
  explicit Base(const fs::path& where) : folder(where) {
    fs::create_directories(folder / "tokenizer");
    const std::vector<NamedTensor> tensors = {{.name = "model.frozen", .tensor = at::full({4}, 1.7).to(at::kBFloat16)},
                                              {.name = "model.trained", .tensor = at::ones({2, 3}).to(at::kBFloat16)}};
    write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
    toy::overwrite(folder / "config.json", "{\"type\": \"toy\"}");
    toy::overwrite(folder / "tokenizer/tokenizer.json", "{}");
    toy::overwrite(folder / "train_config.json", "{}");
    toy::overwrite(folder / "notes.bin", "x");
    toy::overwrite(folder / "policy_preprocessor.json",
                   R"({"name": "policy_preprocessor", "steps": [
                        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
                        {"registry_name": "normalizer_processor", "config": {"eps": 1e-08}, "state_file": "old_name.safetensors"}]})");
    toy::overwrite(
        folder / "policy_postprocessor.json",
        R"({"name": "policy_postprocessor", "steps": [{"registry_name": "unnormalizer_processor", "config": {}}]})");
    const std::vector<NamedTensor> state = {{.name = "action.mean", .tensor = at::zeros({2})}};
    write_safetensors(folder / "old_name.safetensors", state);
  }

  [[nodiscard]] Head head() const {
    Head head;
    head.info = {.policy_type = "toy",
                 .base_digest = "b",
                 .base_file_sha256 = sha256_file(folder / "model.safetensors"),
                 .plan_digest = "p",
                 .rename_map = {{"observation.images.a", "observation.images.b"}},
                 .step = 5,
                 .thaw_version = "0"};
    head.tensors["model.trained"] = random_normal({.seed = 1}, {2, 3});
    head.statistics["action"]["mean"] = at::tensor({1.0 / 3.0, 2.0}, at::kDouble);
    return head;
  }

  fs::path folder;
};

struct Merge : testing::Test {
  toy::Folder scratch;
  Base base{scratch.path() / "base"};
  fs::path head_file = scratch.path() / "head.safetensors";
  fs::path output = scratch.path() / "out" / "merged";
};

TEST_F(Merge, FrozenTensorsStayByteForByteAndTrainedOnesAreTheHeads) {
  write_head(head_file, base.head());
  const MergeReport report = merge_head(base.folder, head_file, output);
  EXPECT_EQ(report.replaced_tensors, 1);
  EXPECT_EQ(report.kept_tensors, 1);
  const auto merged = read_safetensors(output / "model.safetensors");
  const auto before = read_safetensors(base.folder / "model.safetensors");
  EXPECT_BITWISE_EQUAL(merged.at("model.frozen"), before.at("model.frozen"));
  EXPECT_BITWISE_EQUAL(merged.at("model.trained"), base.head().tensors.at("model.trained"));
  EXPECT_EQ(SafetensorsFile(output / "model.safetensors").metadata().at("format"), "pt");
}

TEST_F(Merge, ProcessorsHoldTheHeadsStatisticsAndRenameMap) {
  write_head(head_file, base.head());
  (void)merge_head(base.folder, head_file, output);
  const Json pre = read_json(output / "policy_preprocessor.json");
  EXPECT_EQ(pre["steps"][0]["config"]["rename_map"]["observation.images.a"], "observation.images.b");
  EXPECT_EQ(pre["steps"][1]["state_file"], "old_name.safetensors");
  EXPECT_EQ(pre["steps"][1]["config"]["eps"], 1e-8);
  const at::Tensor mean = at::tensor({1.0F / 3.0F, 2.0F});
  EXPECT_BITWISE_EQUAL(read_safetensors(output / "old_name.safetensors").at("action.mean"), mean);
  const Json post = read_json(output / "policy_postprocessor.json");
  const auto state = post["steps"][0]["state_file"].get<std::string>();
  EXPECT_EQ(state, "policy_postprocessor_step_0_unnormalizer_processor.safetensors");
  EXPECT_BITWISE_EQUAL(read_safetensors(output / state).at("action.mean"), mean);
}

TEST_F(Merge, ConfigurationAndTokenizerAreCopiedAndNothingElse) {
  write_head(head_file, base.head());
  (void)merge_head(base.folder, head_file, output);
  EXPECT_EQ(toy::file_bytes(output / "config.json"), toy::file_bytes(base.folder / "config.json"));
  EXPECT_TRUE(fs::exists(output / "tokenizer/tokenizer.json"));
  EXPECT_FALSE(fs::exists(output / "train_config.json"));
  EXPECT_FALSE(fs::exists(output / "notes.bin"));
}

TEST_F(Merge, AnotherBaseIsRefusedAndNothingIsWritten) {
  Head head = base.head();
  head.info.base_file_sha256 = std::string(64, 'a');
  write_head(head_file, head);
  const std::string message = toy::message_of<MismatchError>([&] { (void)merge_head(base.folder, head_file, output); });
  EXPECT_THAT(message, testing::AllOf(testing::HasSubstr("the base it was trained on"), testing::HasSubstr("aaaa")));
  EXPECT_FALSE(fs::exists(output));
}

TEST_F(Merge, TensorThatTheBaseLacksOrHasInAnotherShapeIsRefused) {
  Head head = base.head();
  head.tensors["model.extra"] = at::zeros({1});
  write_head(head_file, head);
  EXPECT_THAT(toy::message_of<MismatchError>([&] { (void)merge_head(base.folder, head_file, output); }),
              testing::HasSubstr("model.extra"));
  head = base.head();
  head.tensors["model.trained"] = at::zeros({3, 2});
  write_head(head_file, head);
  EXPECT_THAT(toy::message_of<MismatchError>([&] { (void)merge_head(base.folder, head_file, output); }),
              testing::AllOf(testing::HasSubstr("[2, 3]"), testing::HasSubstr("[3, 2]")));
  EXPECT_FALSE(fs::exists(output));
}

TEST_F(Merge, OutputThatExistsIsRefused) {
  write_head(head_file, base.head());
  fs::create_directories(output);
  EXPECT_THAT(toy::message_of<UsageError>([&] { (void)merge_head(base.folder, head_file, output); }),
              testing::HasSubstr("does not exist yet"));
}

TEST_F(Merge, StateFileThatLeavesTheFolderIsRefused) {
  write_head(head_file, base.head());
  toy::overwrite(base.folder / "policy_postprocessor.json",
                 R"({"steps": [{"registry_name": "unnormalizer_processor", "state_file": "../evil.safetensors"}]})");
  EXPECT_THAT(toy::message_of<FormatError>([&] { (void)merge_head(base.folder, head_file, output); }),
              testing::HasSubstr("../evil.safetensors"));
  EXPECT_FALSE(fs::exists(output.parent_path() / "evil.safetensors"));
}

TEST_F(Merge, BaseWithoutProcessorsIsRefusedWithTheWayOut) {
  write_head(head_file, base.head());
  fs::remove(base.folder / "policy_preprocessor.json");
  EXPECT_THAT(toy::message_of<UsageError>([&] { (void)merge_head(base.folder, head_file, output); }),
              testing::AllOf(testing::HasSubstr("policy_preprocessor.json"), testing::HasSubstr("older LeRobot")));
}

}  // namespace
}  // namespace thaw::merge_test
