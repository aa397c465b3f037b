// Merging onto bases that are not LeRobot's one file: openpi's names, and shards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::merge_forms_test {
namespace {

namespace fs = std::filesystem;
using test::run_thaw;
using test::TemporaryFolder;
using test::write_file;

const std::string kGolden = std::string(thaw::test::source_dir()) + "/tests/golden/checkpoint_pi0";
const std::string kDataset = std::string(thaw::test::source_dir()) + "/tests/data/metaworld_tiny/v30_av1";
constexpr const char* kModel = "model.safetensors";

/// Trains two steps on `base` and merges. The merged folder.
std::string merged(const std::string& base, const std::string& work) {
  const auto trained = run_thaw({"train",
                                 "--policy",
                                 base,
                                 "--tokenizer",
                                 kGolden + "/tokenizer",
                                 "--dataset",
                                 kDataset,
                                 "--freeze",
                                 "freeze:*paligemma.*",
                                 "--steps",
                                 "2",
                                 "--batch-size",
                                 "2",
                                 "--num-workers",
                                 "0",
                                 "--precision",
                                 "fp32",
                                 "--quiet",
                                 "--output",
                                 work + "/run"});
  EXPECT_EQ(trained.code, 0) << trained.err;
  const auto result = run_thaw({"merge", work + "/run", "--output", work + "/merged"});
  EXPECT_EQ(result.code, 0) << result.err;
  return work + "/merged";
}

std::string copy_of_base(const TemporaryFolder& folder, const std::string& name) {
  const std::string base = folder / name;
  fs::copy(kGolden + "/pretrained_model", base, fs::copy_options::recursive);
  for (const auto& entry : fs::recursive_directory_iterator(base)) {
    fs::permissions(entry, fs::perms::owner_write, fs::perm_options::add);
  }
  return base;
}

/// The same weights without "model." before their names.
std::string openpi_base(const TemporaryFolder& folder) {
  const std::string base = copy_of_base(folder, "openpi");
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : read_safetensors(fs::path(base) / kModel)) {
    tensors.push_back({.name = name.substr(std::string("model.").size()), .tensor = tensor});
  }
  write_safetensors(fs::path(base) / kModel, tensors);
  return base;
}

/// The same weights in two files with an index.
std::string sharded_base(const TemporaryFolder& folder) {
  const std::string base = copy_of_base(folder, "shards");
  const std::vector<std::string> files{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  std::vector<std::vector<NamedTensor>> shards(2);
  Json map = Json::object();
  std::size_t turn = 0;
  for (const auto& [name, tensor] : read_safetensors(fs::path(base) / kModel)) {
    map[name] = files[turn];
    shards[turn].push_back({.name = name, .tensor = tensor});
    turn = 1 - turn;
  }
  for (std::size_t shard = 0; shard < 2; ++shard) write_safetensors(fs::path(base) / files[shard], shards[shard]);
  write_file(base + "/model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  fs::remove(fs::path(base) / kModel);
  return base;
}

TEST(Merge, BasesWithOpenpisNamesAndInShardsGiveTheMergedCheckpointOfTheirLeRobotForm) {
  const TemporaryFolder folder;
  const auto expected = read_safetensors(fs::path(merged(copy_of_base(folder, "plain"), folder / "of_plain")) / kModel);
  for (const std::string& base : {openpi_base(folder), sharded_base(folder)}) {
    const std::string found = merged(base, base + "_work");
    const auto tensors = read_safetensors(fs::path(found) / kModel);
    EXPECT_FALSE(fs::exists(found + "/model.safetensors.index.json"));
    for (const auto& [name, tensor] : tensors) {
      ASSERT_TRUE(expected.contains(name)) << name;
      EXPECT_TRUE(bitwise_equal(tensor, expected.at(name))) << base << ": " << name;
    }
    EXPECT_GE(tensors.size() + 1, expected.size()) << "the embedding that is in the file twice may be there once";
    for (const char* file : {"config.json", "policy_preprocessor.json", "policy_postprocessor.json"}) {
      EXPECT_TRUE(fs::exists(fs::path(found) / file)) << file;
    }
    const auto sampled = run_thaw({"sample", "--policy", found, "--tokenizer", kGolden + "/tokenizer", "--dataset",
                                   kDataset, "--episode", "0", "--frame", "1"});
    EXPECT_EQ(sampled.code, 0) << sampled.err;
  }
}

}  // namespace
}  // namespace thaw::merge_forms_test
