// Token ids of the reference libraries: the committed sets, and every set below the folders of THAW_TOKENIZER_DIRS.
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/policy/processor_steps.h"
#include "thaw/policy/tokenizer.h"
#include "thaw/tensor/compare.h"

namespace thaw::tokenizer_golden_test {
namespace {

namespace fs = std::filesystem;

/// Subfolders with a cases.json.
std::set<fs::path> sets_below(const fs::path& folder) {
  std::set<fs::path> sets;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (fs::exists(entry.path() / "cases.json")) sets.insert(entry.path());
  }
  return sets;
}

Json read_cases(const fs::path& set) { return read_json(set / "cases.json", {.max_bytes = std::size_t{512} << 20}); }

at::Tensor row(const std::vector<std::int64_t>& values) { return at::tensor(values, at::kLong).unsqueeze(0); }

/// "ids_48" and "mask_48": truncated and padded by the tokenizer step.
void check_padded(const Json& item, const std::shared_ptr<const Tokenizer>& tokenizer) {
  const auto step = make_tokenizer_step({.max_length = 48}, tokenizer);
  Batch batch{.tensors = {}, .tasks = {item["text"].get<std::string>()}, .indices = {0}};
  step->apply(batch);
  const auto tokens = compare_tensors(batch.at(kTokensKey), row(item["ids_48"].get<std::vector<std::int64_t>>()));
  const auto mask =
      compare_tensors(batch.at(kAttentionMaskKey), row(item["mask_48"].get<std::vector<std::int64_t>>()).to(at::kBool));
  EXPECT_TRUE(tokens) << item["text"] << ": " << tokens.message;
  EXPECT_TRUE(mask) << item["text"] << ": " << mask.message;
}

void check_set(const fs::path& set) {
  const auto tokenizer = load_tokenizer(set);
  const Json cases = read_cases(set);
  ASSERT_GT(cases.size(), 0U) << set;
  for (const Json& item : cases) {
    const auto text = item["text"].get<std::string>();
    EXPECT_EQ(tokenizer->encode(text), item["ids"].get<std::vector<std::int64_t>>()) << set << ": " << item["text"];
    if (item.contains("ids_48")) check_padded(item, tokenizer);
  }
  std::cout << "tokenizer set " << set.filename().string() << ": " << cases.size() << " cases" << std::endl;
}

TEST(TokenizerGolden, IdsOfTheCommittedSetsEqualTheReference) {
  const fs::path golden = fs::path(thaw::test::source_dir()) / "tests" / "golden";
  for (const char* folder : {"tokenizers", "tokenizers_extra"}) {
    const auto sets = sets_below(golden / folder);
    ASSERT_GE(sets.size(), 2U) << folder;
    for (const fs::path& set : sets) check_set(set);
  }
}

TEST(TokenizerGolden, IdsOfEveryFurtherSetEqualTheReference) {
  const char* folders = std::getenv("THAW_TOKENIZER_DIRS");
  if (folders == nullptr) GTEST_SKIP() << "THAW_TOKENIZER_DIRS names no folder of further sets";
  std::size_t sets = 0;
  std::stringstream list(folders);
  for (std::string folder; std::getline(list, folder, ':');) {
    if (folder.empty()) continue;
    ASSERT_TRUE(fs::is_directory(folder)) << folder;
    for (const fs::path& set : sets_below(folder)) {
      check_set(set);
      ++sets;
    }
  }
  std::cout << sets << " further tokenizer sets" << std::endl;
}

}  // namespace
}  // namespace thaw::tokenizer_golden_test
