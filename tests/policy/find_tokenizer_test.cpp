#include <cstdlib>
#include <optional>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "policy/small_tokenizer.h"
#include "thaw/core/error.h"
#include "thaw/policy/tokenizer.h"

namespace thaw::find_tokenizer_test {
namespace {

using test::message_of;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// Sets the variables that name caches and restores them at the end.
class CacheVariables {
 public:
  explicit CacheVariables(const std::filesystem::path& home) {
    for (const char* name : {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"}) {
      const char* value = std::getenv(name);
      before_.emplace_back(name, value == nullptr ? std::nullopt : std::optional<std::string>(value));
      unsetenv(name);
    }
    setenv("HOME", home.c_str(), 1);
  }
  ~CacheVariables() {
    for (const auto& [name, value] : before_) value ? setenv(name, value->c_str(), 1) : unsetenv(name);
  }
  CacheVariables(const CacheVariables&) = delete;
  CacheVariables& operator=(const CacheVariables&) = delete;

 private:
  std::vector<std::pair<const char*, std::optional<std::string>>> before_;
};

constexpr const char* kName = "org/vlm-1.0";

/// A tokenizer that tells where it was found: its token "where" has this id.
std::string marked(int id) {
  nlohmann::json tokenizer = test::small_tokenizer();
  tokenizer["model"]["vocab"]["marker"] = id;
  return tokenizer.dump();
}

std::int64_t mark(const TokenizerSearch& search, const std::string& name = kName) {
  return find_tokenizer(name, search)->vocabulary_size() - 1;
}

TEST(FindTokenizer, LooksInOverrideThenCheckpointThenItsSubfolderThenCache) {
  const TemporaryFolder root;
  const CacheVariables variables(root / "home");
  const TokenizerSearch search{.checkpoint = root / "checkpoint", .override_folder = {}};
  std::filesystem::create_directories(search.checkpoint);

  root.write("home/.cache/huggingface/hub/models--org--vlm-1.0/snapshots/abc/tokenizer.json", marked(301));
  EXPECT_EQ(mark(search), 301);
  root.write("checkpoint/tokenizer/tokenizer.json", marked(302));
  EXPECT_EQ(mark(search), 302);
  root.write("checkpoint/tokenizer.json", marked(303));
  EXPECT_EQ(mark(search), 303);
  root.write("given/tokenizer.json", marked(304));
  EXPECT_EQ(mark({.checkpoint = search.checkpoint, .override_folder = root / "given"}), 304);
}

TEST(FindTokenizer, TakesAFolderNamedRelativeToTheCheckpointOrAbsolute) {
  const TemporaryFolder root;
  const CacheVariables variables(root / "home");
  root.write("checkpoint/assets/tok/tokenizer.json", marked(305));
  root.write("elsewhere/tokenizer.json", marked(306));
  const TokenizerSearch search{.checkpoint = root / "checkpoint", .override_folder = {}};
  EXPECT_EQ(mark(search, "assets/tok"), 305);
  EXPECT_EQ(mark(search, (root / "elsewhere").string()), 306);
}

TEST(FindTokenizer, TakesTheSnapshotThatMainNames) {
  const TemporaryFolder root;
  const CacheVariables variables(root / "home");
  setenv("HF_HUB_CACHE", (root / "hub").c_str(), 1);
  root.write("hub/models--org--vlm-1.0/snapshots/aaa/tokenizer.json", marked(307));
  root.write("hub/models--org--vlm-1.0/snapshots/bbb/tokenizer.json", marked(308));
  root.write("hub/models--org--vlm-1.0/refs/main", "bbb\n");
  EXPECT_EQ(mark({}), 308);
}

TEST(FindTokenizer, HfHomeHoldsTheCacheInHub) {
  const TemporaryFolder root;
  const CacheVariables variables(root / "home");
  setenv("HF_HOME", (root / "hf").c_str(), 1);
  root.write("hf/hub/models--org--vlm-1.0/snapshots/aaa/tokenizer.json", marked(309));
  EXPECT_EQ(mark({}), 309);
}

TEST(FindTokenizer, FailureListsEveryPlace) {
  const TemporaryFolder root;
  const CacheVariables variables(root / "home");
  const TokenizerSearch search{.checkpoint = root / "checkpoint", .override_folder = {}};
  const std::string checkpoint = (root / "checkpoint").string();
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(find_tokenizer(kName, search)); }),
              AllOf(HasSubstr("'org/vlm-1.0'"), HasSubstr(checkpoint + ","), HasSubstr(checkpoint + "/tokenizer"),
                    HasSubstr(".cache/huggingface/hub/models--org--vlm-1.0"), HasSubstr("--tokenizer")));
}

TEST(FindTokenizer, OverrideWithoutATokenizerIsAnErrorEvenWhenTheCheckpointHasOne) {
  const TemporaryFolder root;
  root.write("checkpoint/tokenizer.json", marked(310));
  const TokenizerSearch search{.checkpoint = root / "checkpoint", .override_folder = root / "empty"};
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(find_tokenizer(kName, search)); }),
              AllOf(HasSubstr("empty"), Not(HasSubstr("checkpoint,"))));
}

TEST(FindTokenizer, NameFromAFileCannotLeadOutOfTheCheckpoint) {
  const TemporaryFolder root;
  const CacheVariables variables(root / "home");
  root.write("outside/tokenizer.json", marked(311));
  const TokenizerSearch search{.checkpoint = root / "checkpoint", .override_folder = {}};
  std::filesystem::create_directories(search.checkpoint);
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(find_tokenizer("../outside", search)); }),
              HasSubstr("neither in any"));
}

TEST(LoadTokenizer, FolderWithoutFilesThrowsNamingBoth) {
  const TemporaryFolder root;
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(load_tokenizer(root.path())); }),
              AllOf(HasSubstr("tokenizer.json"), HasSubstr("tokenizer.model")));
}

TEST(CopyTokenizerFiles, CopyLoadsToTheSameTokenizer) {
  const TemporaryFolder root;
  root.write("from/tokenizer.json", marked(312));
  root.write("from/tokenizer_config.json", R"({"truncation_side": "left"})");
  root.write("from/README.md", "not a tokenizer file");
  const auto tokenizer = load_tokenizer(root / "from");
  std::filesystem::create_directories(root / "to");
  copy_tokenizer_files(*tokenizer, root / "to");
  EXPECT_EQ(load_tokenizer(root / "to")->digest(), tokenizer->digest());
  EXPECT_FALSE(std::filesystem::exists(root / "to/README.md"));
}

}  // namespace
}  // namespace thaw::find_tokenizer_test
