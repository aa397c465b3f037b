// tokenizer.model of the committed set: 700 pieces, byte fallback, pad 0, BOS 2.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/policy/tokenizer.h"

namespace thaw::sentence_piece_test {
namespace {

using nlohmann::json;
using test::message_of;
using test::TemporaryFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string model_bytes() {
  return read_text(std::filesystem::path(thaw::test::source_dir()) / "tests" / "golden" / "tokenizers" / "gemma" /
                   "tokenizer.model");
}

std::shared_ptr<const Tokenizer> load(const json& config = {}) {
  const TemporaryFolder folder;
  folder.write("tokenizer.model", model_bytes());
  if (!config.is_null()) folder.write("tokenizer_config.json", config.dump());
  return load_tokenizer(folder.path());
}

TEST(SentencePiece, BeginsWithBosUnlessTheConfigSaysNo) {
  EXPECT_THAT(load()->encode(""), ElementsAre(2));
  EXPECT_EQ(load()->added_specials().before, 1);
  const auto without = load({{"add_bos_token", false}});
  EXPECT_THAT(without->encode(""), ElementsAre());
  EXPECT_EQ(without->added_specials().before, 0);
}

TEST(SentencePiece, EndsWithEosWhenTheConfigSaysSo) {
  const auto with = load({{"add_eos_token", true}});
  EXPECT_THAT(with->encode(""), ElementsAre(2, 1));
  EXPECT_EQ(with->added_specials().after, 1);
}

TEST(SentencePiece, PaddingIsTheModelsOrTheConfigs) {
  EXPECT_EQ(load()->pad_id(), 0);
  EXPECT_EQ(load({{"pad_token", "<loc0000>"}})->pad_id(), load()->encode("<loc0000>").at(1));
  EXPECT_THAT(message_of<FormatError>([] {
                static_cast<void>(load({{"pad_token", "<none>"}}));
              }),
              HasSubstr("'<none>'"));
}

TEST(SentencePiece, InvalidUtf8IsRefused) {
  EXPECT_THAT(message_of<FormatError>([] { static_cast<void>(load()->encode("a\xFF")); }), HasSubstr("offset 1"));
}

TEST(SentencePiece, TruncatedModelIsRefused) {
  const std::string whole = model_bytes();
  const TemporaryFolder folder;
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, whole.size() / 2, whole.size() - 1}) {
    folder.write("tokenizer.model", whole.substr(0, length));
    EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(load_tokenizer(folder.path())); }),
                HasSubstr("SentencePiece"))
        << length;
  }
}

TEST(SentencePiece, IsPreferredToItsConversionToTokenizerJson) {
  const TemporaryFolder folder;
  folder.write("tokenizer.model", model_bytes());
  folder.write("tokenizer.json", R"({"model": {"type": "BPE", "byte_fallback": true}})");
  EXPECT_THAT(load_tokenizer(folder.path())->encode(""), ElementsAre(2));
}

}  // namespace
}  // namespace thaw::sentence_piece_test
