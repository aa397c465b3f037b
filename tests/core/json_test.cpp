#include "thaw/core/json.h"

#include <gmock/gmock.h>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::json_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string refusal(std::string_view text, JsonLimits limits = {}) {
  return message_of<FormatError>([&] { static_cast<void>(parse_json(text, "x.json", limits)); });
}

TEST(Json, KeepsTheOrderOfKeys) {
  const Json json = parse_json(R"({"wrist": 1, "corner": 2, "a": {"z": null, "b": [1, "two", 3.5, true]}})", "x.json");
  EXPECT_EQ(json.dump(), R"({"wrist":1,"corner":2,"a":{"z":null,"b":[1,"two",3.5,true]}})");
}

TEST(Json, TakesAnyValueAsTheDocument) {
  EXPECT_EQ(parse_json(" -7 ", "x"), Json(-7));
  EXPECT_EQ(parse_json("\"é\\u00e9\\ud83d\\ude00\"", "x"), Json("éé😀"));
  EXPECT_EQ(parse_json("[]", "x"), Json::array());
}

TEST(Json, NamesTheFileAndThePlaceOfASyntaxError) {
  EXPECT_THAT(refusal("{\"a\": [1, 2,]}"),
              AllOf(HasSubstr("x.json"), HasSubstr("/a/2"), HasSubstr("line 1, column 13")));
}

TEST(Json, RefusesADuplicateKeyAndSaysWhere) {
  EXPECT_THAT(refusal(R"({"a": {"b": 1, "b": 2}})"), AllOf(HasSubstr("/a/b"), HasSubstr("'b' twice")));
  EXPECT_THAT(refusal(R"({"a": 1, "\u0061": 2})"), HasSubstr("'a' twice"));
}

TEST(Json, SameKeyInDifferentObjectsIsNoDuplicate) {
  EXPECT_EQ(parse_json(R"([{"a":1},{"a":{"a":2}}])", "x").size(), 2U);
}

TEST(Json, RefusesPythonsNonFiniteLiteralsByName) {
  EXPECT_THAT(refusal("{\"std\": NaN}"), AllOf(HasSubstr("/std"), HasSubstr("found NaN"), HasSubstr("json.dump")));
  EXPECT_THAT(refusal("[1.5, Infinity]"), AllOf(HasSubstr("/1"), HasSubstr("found Infinity")));
  EXPECT_THAT(refusal("[-Infinity]"), HasSubstr("found -Infinity"));
}

TEST(Json, RefusesANumberBeyondFloat64) { EXPECT_THAT(refusal("[1e400]"), HasSubstr("1e400")); }

TEST(Json, RefusesInvalidUtf8) {
  EXPECT_THAT(refusal("\"\xff\""), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal("\"\xed\xa0\x80\""), HasSubstr("UTF-8"));  // a surrogate, encoded
  EXPECT_THAT(refusal("\"\xc0\xaf\""), HasSubstr("UTF-8"));      // an overlong slash
  EXPECT_THAT(refusal("\"\\ud800\""), HasSubstr("surrogate"));
}

TEST(Json, RefusesWhatIsNotOneDocument) {
  EXPECT_THAT(refusal(""), HasSubstr("expected JSON"));
  EXPECT_THAT(refusal("{} {}"), HasSubstr("expected JSON"));
  EXPECT_THAT(refusal("{}// comment"), HasSubstr("expected JSON"));
  EXPECT_THAT(refusal("[1"), HasSubstr("expected JSON"));
}

TEST(Json, RefusesAZeroByteThatNlohmannTakesForTheEnd) {
  EXPECT_THAT(refusal(std::string_view("{}\0garbage", 10)), HasSubstr("zero byte at offset 2"));
}

TEST(Json, RefusesAByteOrderMark) { EXPECT_THAT(refusal("\xef\xbb\xbf{}"), HasSubstr("byte order mark")); }

TEST(Json, NestsToTheLimitAndNoDeeper) {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
  };
  EXPECT_NO_THROW(static_cast<void>(parse_json(nested(32), "x")));
  EXPECT_THAT(refusal(nested(33)), HasSubstr("at most 32 levels"));
  EXPECT_THAT(refusal(nested(100'000)), HasSubstr("at most 32 levels"));
}

TEST(Json, RefusesTextBeyondTheSizeLimit) {
  EXPECT_NO_THROW(static_cast<void>(parse_json("[10]", "x", {.max_bytes = 4})));
  EXPECT_THAT(refusal("[100]", {.max_bytes = 4}), HasSubstr("at most 4 bytes"));
}

// ordered_json looks a key up in linear time: built naively, this object would take minutes.
TEST(Json, ReadsAnObjectOfManyKeysInLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":0";
  EXPECT_EQ(parse_json(text + "}", "x").size(), 200'000U);
}

TEST(ReadJson, NamesTheFile) {
  const test::TemporaryFolder folder;
  const auto path = folder.write("config.json", "{\"fps\": }");
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(read_json(path)); }), HasSubstr(path.string()));
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(read_json(folder / "none.json")); }),
              HasSubstr("No such file"));
  EXPECT_EQ(read_json(folder.write("good.json", "{\"fps\": 30}\n")).at("fps"), 30);
}

TEST(ReadJson, RefusesALargeFileBeforeReadingIt) {
  const test::TemporaryFolder folder;
  const auto path = folder.write("huge.json", "");
  std::filesystem::resize_file(path, std::uintmax_t{1} << 40);  // sparse
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(read_json(path)); }), HasSubstr("16777216 bytes"));
}

TEST(ReadJsonLines, SkipsEmptyLinesAndTakesAMissingLastNewline) {
  const test::TemporaryFolder folder;
  const auto lines = read_json_lines(folder.write("a.jsonl", "{\"a\":1}\r\n\n  \n[2]\n3"));
  EXPECT_THAT(lines, ElementsAre(Json{{"a", 1}}, Json::array({2}), Json(3)));
  EXPECT_TRUE(read_json_lines(folder.write("empty.jsonl", "")).empty());
}

TEST(ReadJsonLines, NamesTheLine) {
  const test::TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", "{}\n\n{\"a\": NaN}\n");
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(read_json_lines(path)); }),
              AllOf(HasSubstr("a.jsonl, line 3, at /a"), HasSubstr("NaN")));
}

TEST(ReadJsonLines, ReadsAcrossItsBlocksAndLimitsALineNotTheFile) {
  const test::TemporaryFolder folder;
  std::string text;
  const std::string word(1000, 'x');
  for (int i = 0; i < 3000; ++i) text += "{\"i\":" + std::to_string(i) + ",\"w\":\"" + word + "\"}\n";
  const auto path = folder.write("a.jsonl", text);
  const auto lines = read_json_lines(path, {.max_bytes = 2000});
  ASSERT_EQ(lines.size(), 3000U);
  for (int i = 0; i < 3000; ++i) ASSERT_EQ(lines[static_cast<std::size_t>(i)].at("i"), i);
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(read_json_lines(path, {.max_bytes = 1000})); }),
              HasSubstr("at most 1000 bytes"));
}

// ---- typed fields ----

template <class T>
std::string field_refusal(std::string_view object, std::string_view key) {
  return message_of<FormatError>([&] { static_cast<void>(json_field<T>(parse_json(object, "x"), key, "info.json")); });
}

TEST(JsonField, GivesEachType) {
  const Json json = parse_json(
      R"({"b":true,"i":-3,"whole":4.0,"d":0.5,"s":"t","is":[1,2],"ds":[1,2.5],"ss":["a"],"bs":[false],"j":{"k":null}})",
      "x");
  EXPECT_TRUE(json_field<bool>(json, "b", "x"));
  EXPECT_EQ(json_field<std::int64_t>(json, "i", "x"), -3);
  EXPECT_EQ(json_field<std::int64_t>(json, "whole", "x"), 4);
  EXPECT_EQ(json_field<double>(json, "i", "x"), -3.0);
  EXPECT_EQ(json_field<double>(json, "d", "x"), 0.5);
  EXPECT_EQ(json_field<std::string>(json, "s", "x"), "t");
  EXPECT_THAT(json_field<std::vector<std::int64_t>>(json, "is", "x"), ElementsAre(1, 2));
  EXPECT_THAT(json_field<std::vector<double>>(json, "ds", "x"), ElementsAre(1.0, 2.5));
  EXPECT_THAT(json_field<std::vector<std::string>>(json, "ss", "x"), ElementsAre("a"));
  EXPECT_THAT(json_field<std::vector<bool>>(json, "bs", "x"), ElementsAre(false));
  EXPECT_EQ(json_field<Json>(json, "j", "x").dump(), R"({"k":null})");
}

TEST(JsonField, NamesFileKeyAndTypeFound) {
  EXPECT_EQ(field_refusal<std::int64_t>(R"({"fps":"30"})", "fps"),
            "info.json, field 'fps': expected an integer of at most 2^53 in size, found string \"30\"");
  EXPECT_THAT(field_refusal<double>(R"({"fps":null})", "fps"), HasSubstr("found null"));
  EXPECT_THAT(field_refusal<bool>(R"({"video":1})", "video"), HasSubstr("expected true or false, found number 1"));
  EXPECT_THAT(field_refusal<std::string>(R"({"a":{"b":1}})", "a"), HasSubstr("found object of 1"));
  EXPECT_THAT(field_refusal<double>(R"({"a":1})", "b"), HasSubstr("info.json: expected the field 'b', found none"));
  EXPECT_THAT(field_refusal<double>("[1]", "b"), HasSubstr("expected an object with the field 'b', found array of 1"));
}

TEST(JsonField, BooleanIsNoNumber) {
  EXPECT_THAT(field_refusal<double>(R"({"a":true})", "a"), HasSubstr("found boolean true"));
  EXPECT_THAT(field_refusal<std::int64_t>(R"({"a":true})", "a"), HasSubstr("found boolean true"));
}

TEST(JsonField, IntegerMustBeWholeAndExactInADouble) {
  const auto integer = [](std::string_view number) {
    return field_refusal<std::int64_t>("{\"n\":" + std::string(number) + "}", "n");
  };
  EXPECT_THAT(integer("1.5"), HasSubstr("found number 1.5"));
  EXPECT_EQ(integer("9007199254740992"), "(nothing was thrown)");
  EXPECT_THAT(integer("9007199254740993"), HasSubstr("2^53"));
  EXPECT_THAT(integer("-9007199254740993"), HasSubstr("2^53"));
  EXPECT_THAT(integer("18446744073709551615"), HasSubstr("2^53"));
  EXPECT_THAT(integer("1e300"), HasSubstr("2^53"));
}

TEST(JsonField, NamesTheElementOfAList) {
  EXPECT_THAT(field_refusal<std::vector<std::int64_t>>(R"({"shape":[3,-1.5]})", "shape"), HasSubstr("'shape[1]'"));
  EXPECT_THAT(field_refusal<std::vector<std::int64_t>>(R"({"shape":3})", "shape"), HasSubstr("expected a list"));
}

TEST(JsonFieldOr, FallsBackOnlyWhereTheMemberIsAbsentOrNull) {
  const Json json = parse_json(R"({"null":null,"a":2})", "x");
  EXPECT_EQ(json_field_or<std::int64_t>(json, "null", 7, "x"), 7);
  EXPECT_EQ(json_field_or<std::int64_t>(json, "none", 7, "x"), 7);
  EXPECT_EQ(json_field_or<std::int64_t>(json, "a", 7, "x"), 2);
  EXPECT_THROW(static_cast<void>(json_field_or<std::string>(json, "a", "", "x")), FormatError);
}

}  // namespace
}  // namespace thaw::json_test
