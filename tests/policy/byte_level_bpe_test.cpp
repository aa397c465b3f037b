// tokenizer.json: what is read, what is refused, and what the settings beside it change.
#include <nlohmann/json.hpp>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "policy/small_tokenizer.h"
#include "thaw/core/error.h"
#include "thaw/policy/tokenizer.h"

namespace thaw::byte_level_bpe_test {
namespace {

using nlohmann::json;
using test::added_token;
using test::message_of;
using test::small_tokenizer;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Files {
  json tokenizer = small_tokenizer();
  json config;          ///< tokenizer_config.json when not null
  json special_tokens;  ///< special_tokens_map.json when not null
};

std::shared_ptr<const Tokenizer> load(const Files& files) {
  const TemporaryFolder folder;
  folder.write("tokenizer.json", files.tokenizer.dump());
  if (!files.config.is_null()) folder.write("tokenizer_config.json", files.config.dump());
  if (!files.special_tokens.is_null()) folder.write("special_tokens_map.json", files.special_tokens.dump());
  return load_tokenizer(folder.path());
}

std::vector<std::int64_t> ids(const json& tokenizer, std::string_view text) {
  return load({.tokenizer = tokenizer})->encode(text);
}

std::string refusal(const json& tokenizer) {
  return message_of<FormatError>([&] { static_cast<void>(load({.tokenizer = tokenizer})); });
}

// ---- merges ----

TEST(ByteLevelBpe, MergesTheLowestRankFirstAndTheLeftmostAmongEquals) {
  EXPECT_THAT(ids(small_tokenizer(), "abc"), ElementsAre(257));
  EXPECT_THAT(ids(small_tokenizer(), "abab"), ElementsAre(256, 256));
  EXPECT_THAT(ids(small_tokenizer(), "lll"), ElementsAre(259, 'l'));
  // " ab": "ab" (rank 0) leaves no "a" for " a" (rank 2).
  EXPECT_THAT(ids(small_tokenizer(), " ab"), ElementsAre(' ', 256));
  EXPECT_THAT(ids(small_tokenizer(), " ac"), ElementsAre(258, 'c'));
}

TEST(ByteLevelBpe, MergesGivenAsPairsAreTheSame) {
  json tokenizer = small_tokenizer();
  tokenizer["model"]["merges"] = json::array({json::array({"a", "b"}), json::array({"ab", "c"})});
  EXPECT_THAT(ids(tokenizer, "abcab"), ElementsAre(257, 256));
}

TEST(ByteLevelBpe, PiecesAreNotMergedAcross) {
  json tokenizer = small_tokenizer();
  tokenizer["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"String", "b"}}}, {"behavior", "Isolated"}, {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}}}}};
  EXPECT_THAT(ids(tokenizer, "abc"), ElementsAre('a', 'b', 'c'));
}

TEST(ByteLevelBpe, EveryByteHasItsPlaceInTheAlphabet) {
  EXPECT_THAT(ids(small_tokenizer(), "\n\xC3\xA9\x7F"), ElementsAre(10, 0xC3, 0xA9, 0x7F));
  EXPECT_THAT(ids(small_tokenizer(), std::string_view("\0", 1)), ElementsAre(0));
  EXPECT_THAT(ids(small_tokenizer(), ""), IsEmpty());
}

TEST(ByteLevelBpe, LongTextIsEncodedWhole) {
  const auto tokenizer = load({});
  EXPECT_EQ(tokenizer->encode(std::string(300'000, 'l')), std::vector<std::int64_t>(150'000, 259));
  EXPECT_EQ(tokenizer->encode(std::string(300'000, ' ')), std::vector<std::int64_t>(300'000, ' '));
}

// ---- added tokens ----

TEST(ByteLevelBpe, AddedTokensWinOverMergesAndTheLongestWins) {
  json tokenizer = small_tokenizer();
  tokenizer["added_tokens"] = {added_token(260, "b"), added_token(261, "<x>"), added_token(262, "<x>!")};
  // "b" is in the vocabulary: it keeps that id.
  EXPECT_THAT(ids(tokenizer, "abc<x>!<x>"), ElementsAre('a', 'b', 'c', 261, 260));
}

TEST(ByteLevelBpe, AddedTokenTakesTheSpacesOfItsStrippedSides) {
  json tokenizer = small_tokenizer();
  tokenizer["added_tokens"] = {added_token(260, "<l>"), added_token(261, "<r>")};
  tokenizer["added_tokens"][0]["lstrip"] = true;
  tokenizer["added_tokens"][1]["rstrip"] = true;
  EXPECT_THAT(ids(tokenizer, "x \t<l> x"), ElementsAre('x', 260, ' ', 'x'));
  EXPECT_THAT(ids(tokenizer, "x <r>\xE3\x80\x80 x"), ElementsAre('x', ' ', 261, 'x'));
}

TEST(ByteLevelBpe, SingleWordTokenIsNotFoundInsideAWord) {
  json tokenizer = small_tokenizer();
  tokenizer["added_tokens"] = {added_token(260, "cab")};
  tokenizer["added_tokens"][0]["single_word"] = true;
  EXPECT_THAT(ids(tokenizer, "cab-cab"), ElementsAre(260, '-', 260));
  EXPECT_THAT(ids(tokenizer, "cabs"), ElementsAre('c', 256, 's'));
  EXPECT_THAT(ids(tokenizer, "_cab"), ElementsAre('_', 'c', 256));
  EXPECT_THAT(ids(tokenizer,
                  "\xC3\xA9"
                  "cab"),
              ElementsAre(0xC3, 0xA9, 'c', 256));
}

TEST(ByteLevelBpe, VocabularySizeCountsAddedTokens) {
  json tokenizer = small_tokenizer();
  EXPECT_EQ(load({.tokenizer = tokenizer})->vocabulary_size(), 260);
  tokenizer["added_tokens"] = {added_token(260, "<x>")};
  EXPECT_EQ(load({.tokenizer = tokenizer})->vocabulary_size(), 261);
}

TEST(ByteLevelBpe, TokensOfTheConfigJoinAndReplaceThoseOfTheFile) {
  json tokenizer = small_tokenizer();
  tokenizer["added_tokens"] = {added_token(260, "<x>")};
  json changed = added_token(260, "<x>");
  changed["lstrip"] = true;
  const json config{{"added_tokens_decoder", {{"260", changed}, {"261", added_token(261, "<y>")}}}};
  EXPECT_THAT(load({.tokenizer = tokenizer, .config = config})->encode(" <x> <y>"), ElementsAre(260, ' ', 261));
}

TEST(ByteLevelBpe, TemplateAddsItsTokensAndSaysHowMany) {
  json tokenizer = small_tokenizer();
  tokenizer["post_processor"] = {{"type", "TemplateProcessing"},
                                 {"single",
                                  {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
                                   {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                                   {{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}}}},
                                 {"special_tokens", {{"<s>", {{"ids", {300}}}}, {"</s>", {{"ids", {301, 302}}}}}}};
  const auto loaded = load({.tokenizer = tokenizer});
  EXPECT_THAT(loaded->encode("ab"), ElementsAre(300, 256, 301, 302));
  EXPECT_EQ(loaded->added_specials().before, 1);
  EXPECT_EQ(loaded->added_specials().after, 2);
}

// ---- padding, truncation, identity ----

TEST(ByteLevelBpe, PaddingTokenComesFromTheConfigThenTheMapThenTheFileThenImEnd) {
  json tokenizer = small_tokenizer();
  tokenizer["added_tokens"] = {added_token(260, "<|im_end|>"), added_token(261, "<p>"), added_token(262, "<q>")};
  EXPECT_EQ(load({.tokenizer = tokenizer})->pad_id(), 260);
  tokenizer["padding"] = {{"pad_token", "<q>"}, {"pad_id", 262}};
  EXPECT_EQ(load({.tokenizer = tokenizer})->pad_id(), 262);
  const json map{{"pad_token", {{"content", "<p>"}}}};
  EXPECT_EQ(load({.tokenizer = tokenizer, .config = {}, .special_tokens = map})->pad_id(), 261);
  const json config{{"pad_token", "ab"}};
  EXPECT_EQ(load({.tokenizer = tokenizer, .config = config, .special_tokens = map})->pad_id(), 256);
}

TEST(ByteLevelBpe, MissingPaddingTokenThrows) {
  const auto tokenizer = load({});
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(tokenizer->pad_id()); }), HasSubstr("padding token"));
  EXPECT_THAT(message_of<FormatError>([] {
                static_cast<void>(load({.config = {{"pad_token", "<none>"}}}));
              }),
              HasSubstr("'<none>'"));
}

TEST(ByteLevelBpe, TruncationSideComesFromTheConfigOrTheFile) {
  EXPECT_EQ(load({})->truncation_side(), TruncationSide::right);
  EXPECT_EQ(load({.config = {{"truncation_side", "left"}}})->truncation_side(), TruncationSide::left);
  json tokenizer = small_tokenizer();
  tokenizer["truncation"] = {{"direction", "Left"}, {"max_length", 5}};
  EXPECT_EQ(load({.tokenizer = tokenizer})->truncation_side(), TruncationSide::left);
  EXPECT_THAT(message_of<FormatError>([] {
                static_cast<void>(load({.config = {{"truncation_side", "up"}}}));
              }),
              HasSubstr("'up'"));
}

TEST(ByteLevelBpe, DigestFollowsTheContentOfEveryFile) {
  json other = small_tokenizer();
  other["model"]["vocab"]["zz"] = 300;
  const std::string digest = load({})->digest();
  EXPECT_EQ(digest.size(), 64U);
  EXPECT_EQ(load({})->digest(), digest);
  EXPECT_NE(load({.tokenizer = other})->digest(), digest);
  EXPECT_NE(load({.config = {{"truncation_side", "left"}}})->digest(), digest);
}

// ---- what is refused ----

TEST(ByteLevelBpe, ComponentsThatThawDoesNotKnowAreNamed) {
  json tokenizer = small_tokenizer();
  tokenizer["normalizer"] = {{"type", "NFC"}};
  EXPECT_THAT(refusal(tokenizer), AllOf(HasSubstr("tokenizer.json"), HasSubstr("the normalizer 'NFC'")));

  tokenizer = small_tokenizer();
  tokenizer["model"]["type"] = "WordPiece";
  EXPECT_THAT(refusal(tokenizer), HasSubstr("'WordPiece'"));

  tokenizer = small_tokenizer();
  tokenizer["pre_tokenizer"] = {{"type", "Whitespace"}};
  EXPECT_THAT(refusal(tokenizer), HasSubstr("the pre-tokenizer 'Whitespace'"));

  tokenizer = small_tokenizer();
  tokenizer["pre_tokenizer"] = nullptr;
  EXPECT_THAT(refusal(tokenizer), HasSubstr("ends with ByteLevel"));

  tokenizer = small_tokenizer();
  tokenizer["post_processor"] = {{"type", "BertProcessing"}};
  EXPECT_THAT(refusal(tokenizer), HasSubstr("the post-processor 'BertProcessing'"));
}

TEST(ByteLevelBpe, ModelOptionsThatWouldChangeIdsAreRefused) {
  const std::vector<std::pair<std::string, json>> options{
      {"dropout", 0.1}, {"byte_fallback", true}, {"continuing_subword_prefix", "##"}, {"end_of_word_suffix", "</w>"}};
  for (const auto& [key, value] : options) {
    json tokenizer = small_tokenizer();
    tokenizer["model"][key] = value;
    EXPECT_THAT(refusal(tokenizer), HasSubstr("'" + key + "'"));
  }
  json harmless = small_tokenizer();
  for (const auto& [key, value] : options) harmless["model"][key] = nullptr;
  EXPECT_THAT(ids(harmless, "ab"), ElementsAre(256));
}

TEST(ByteLevelBpe, RegexConstructsThatTheTwoEnginesReadDifferentlyAreRefused) {
  for (const char* pattern :
       {R"(\w+)", R"(\h)", R"([a[bc]])", R"([a&&b])", R"((?m:a))", R"(a{2}+)", R"((*FAIL))", R"(()"}) {
    json tokenizer = small_tokenizer();
    tokenizer["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
          {{"type", "ByteLevel"}, {"add_prefix_space", false}}}}};
    EXPECT_THAT(refusal(tokenizer), HasSubstr("regular expression")) << pattern;
  }
}

TEST(ByteLevelBpe, PatternThatBacktracksWithoutEndIsAnErrorNotAHang) {
  json tokenizer = small_tokenizer();
  tokenizer["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "(a+)+(a+)+(a+)+$!"}}}, {"behavior", "Isolated"}, {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}}}}};
  const auto loaded = load({.tokenizer = tokenizer});
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(loaded->encode(std::string(60, 'a') + "b!")); }),
              HasSubstr("backtracks"));
}

TEST(ByteLevelBpe, BadMergesAreNamedByTheirPlace) {
  json tokenizer = small_tokenizer();
  tokenizer["model"]["merges"] = {"a b", "q u"};
  EXPECT_THAT(refusal(tokenizer), AllOf(HasSubstr("entry 1"), HasSubstr("unknown token 'qu'")));
  tokenizer["model"]["merges"] = {"a b", "abc"};
  EXPECT_THAT(refusal(tokenizer), AllOf(HasSubstr("entry 1"), HasSubstr("'abc'")));
  tokenizer["model"]["merges"] = json::array();
  tokenizer["model"]["merges"].push_back(json::array({"a", "b", "c"}));
  EXPECT_THAT(refusal(tokenizer), HasSubstr("a pair of tokens"));
  tokenizer["model"]["merges"] = 7;
  EXPECT_THAT(refusal(tokenizer), HasSubstr("'merges'"));
}

TEST(ByteLevelBpe, BadIdsOfTheVocabularyAreNamed) {
  for (const json& id : {json(-1), json(1.5), json("7"), json(std::int64_t{1} << 40), json(nullptr)}) {
    json tokenizer = small_tokenizer();
    tokenizer["model"]["vocab"]["zz"] = id;
    EXPECT_THAT(refusal(tokenizer), HasSubstr("token 'zz'")) << id;
  }
}

TEST(ByteLevelBpe, TruncatedFileIsRefusedAtEveryLength) {
  const std::string whole = small_tokenizer().dump();
  const TemporaryFolder folder;
  for (std::size_t length = 0; length < whole.size(); length += 97) {
    folder.write("tokenizer.json", whole.substr(0, length));
    EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(load_tokenizer(folder.path())); }),
                HasSubstr("tokenizer.json"))
        << length;
  }
}

TEST(ByteLevelBpe, InvalidUtf8IsRefusedWithItsOffset) {
  const auto tokenizer = load({});
  const std::vector<std::string> texts{"ab\xFF", "ab\xC3", "ab\xED\xA0\x80", "ab\xC0\xAF", "ab\xF4\x90\x80\x80",
                                       "ab\x80"};
  for (const std::string& text : texts) {
    EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(tokenizer->encode(text)); }), HasSubstr("offset 2"));
  }
}

}  // namespace
}  // namespace thaw::byte_level_bpe_test
