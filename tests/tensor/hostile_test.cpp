// The corpus of files that must be refused (or taken), built here byte by byte and, where a folder is given, read from
// disk.
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "support/paths.h"
#include "tensor/hostile_corpus.h"
#include "tensor/memory_file.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::hostile_test {
namespace {

using test::message_of;
using test::TemporaryFolder;
using namespace std::string_literals;  // for bytes that hold zeros
using ::testing::AllOf;
using ::testing::HasSubstr;

struct Verdict {
  std::string name;
  bool accept = false;
};

std::vector<Verdict> expected_verdicts(const std::filesystem::path& table) {
  std::istringstream lines(read_text(table));
  std::vector<Verdict> verdicts;
  std::string line;
  std::getline(lines, line);
  if (line != "file\tverdict\twhy") throw std::runtime_error(table.string() + ": another heading");
  while (std::getline(lines, line)) {
    const auto name_end = line.find('\t');
    const std::string verdict = line.substr(name_end + 1, line.find('\t', name_end + 1) - name_end - 1);
    verdicts.push_back({line.substr(0, name_end), verdict == "accept"});
  }
  return verdicts;
}

std::filesystem::path table_path() {
  return std::filesystem::path(thaw::test::source_dir()) / "tests" / "hostile" / "expected.tsv";
}

/// "" when the header is taken, else the message of the refusal.
std::string refusal_of_file(const std::filesystem::path& path) {
  try {
    const SafetensorsFile file(path);
    return "";
  } catch (const FormatError& error) {
    return error.what();
  }
}

TEST(HostileSafetensors, CorpusAndTableNameTheSameCases) {
  std::map<std::string, bool> built;
  for (const auto& one : test::hostile_corpus()) built[one.name] = one.accept;
  std::map<std::string, bool> listed;
  for (const auto& one : expected_verdicts(table_path())) listed[one.name] = one.accept;
  EXPECT_EQ(built, listed);
  EXPECT_GT(listed.size(), 75U);
}

TEST(HostileSafetensors, EveryCaseHasItsVerdictAndReason) {
  const test::MemoryFile file;
  for (const auto& one : test::hostile_corpus()) {
    const auto path = file.write(one.bytes);
    const std::string refusal = refusal_of_file(path);
    if (one.accept) {
      EXPECT_EQ(refusal, "") << one.name;
    } else {
      EXPECT_THAT(refusal, AllOf(HasSubstr(path.string()), HasSubstr(one.reason))) << one.name;
      EXPECT_LT(refusal.size(), 600U) << one.name;  // a name of a megabyte is not repeated
    }
  }
}

TEST(HostileSafetensors, FilesOfTheGeneratorHaveTheirVerdicts) {
  const char* given = std::getenv("THAW_HOSTILE_DIR");
  if (given == nullptr)
    GTEST_SKIP() << "THAW_HOSTILE_DIR names no folder of generated files (see tests/hostile/README.md)";
  const std::filesystem::path folder(given);
  const auto own_table = folder / "expected.tsv";
  const auto verdicts = expected_verdicts(std::filesystem::exists(own_table) ? own_table : table_path());
  for (const auto& [name, accept] : verdicts) {
    const std::string refusal = refusal_of_file(folder / name);
    EXPECT_EQ(refusal.empty(), accept) << name << ": " << refusal;
  }
}

TEST(HostileSafetensors, PickleIsRefusedWithAWayOut) {
  const TemporaryFolder folder;
  const auto path = folder.write("model.safetensors", "\x80\x04\x95" + std::string(100, '\0'));
  EXPECT_THAT(refusal_of_file(path), AllOf(HasSubstr("found a Python pickle"), HasSubstr("save_file")));
}

TEST(HostileSafetensors, PageWithWhiteSpaceBeforeItIsStillAPage) {
  const TemporaryFolder folder;
  const auto path = folder.write("model.safetensors", "\n\n  <HTML><head></head><body>Sign in</body></html>");
  EXPECT_THAT(refusal_of_file(path), AllOf(HasSubstr("found an HTML page"), HasSubstr("fetch it again")));
}

// A header of 640 bytes starts with the two bytes of a pickle.
TEST(HostileSafetensors, FirstBytesOfAPickleMayBeTheLengthOfAGoodHeader) {
  std::string header = test::HeaderParts{}.header();
  header.resize(0x0280, ' ');
  const TemporaryFolder folder;
  EXPECT_EQ(refusal_of_file(folder.write("a", test::safetensors_bytes(header, std::string(16, '\0')))), "");
}

TEST(HostileSafetensors, OnlyARegularFileIsRead) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<IoError>([&] { const SafetensorsFile file(folder.path()); }), HasSubstr("a folder"));
  EXPECT_THAT(message_of<IoError>([] { const SafetensorsFile file("/dev/zero"); }), HasSubstr("a device"));
  EXPECT_THAT(message_of<IoError>([&] { const SafetensorsFile file(folder / "none"); }), HasSubstr("No such file"));
}

TEST(HostileSafetensors, LimitsAreInclusive) {
  const auto check = [](const std::string& header, std::uint64_t bytes, SafetensorsLimits limits) {
    return message_of<FormatError>([&] { static_cast<void>(parse_safetensors_header(header, bytes, "x", limits)); });
  };
  const std::string none = "(nothing was thrown)";
  const test::HeaderParts parts{.shape = "[1,1,2,2]"};
  EXPECT_EQ(check(parts.header(), 16, {.max_rank = 4}), none);
  EXPECT_THAT(check(parts.header(), 16, {.max_rank = 3}), HasSubstr("at most 3 dimensions"));
  EXPECT_EQ(check(test::HeaderParts{.name = "\"abc\""}.header(), 16, {.max_name_bytes = 3}), none);
  EXPECT_THAT(check(test::HeaderParts{.name = "\"abc\""}.header(), 16, {.max_name_bytes = 2}), HasSubstr("at most 2"));
  const std::string two =
      "{" + parts.member() + "," + test::HeaderParts{.name = "\"b\"", .offsets = "[16,32]"}.member() + "}";
  EXPECT_EQ(check(two, 32, {.max_tensors = 2}), none);
  EXPECT_THAT(check(two, 32, {.max_tensors = 1}), HasSubstr("at most 1 tensors"));

  const TemporaryFolder folder;
  const auto path = folder.write("a", test::safetensors_bytes(parts.header(), std::string(16, '\0')));
  EXPECT_NO_THROW(SafetensorsFile(path, {.max_header_bytes = parts.header().size()}));
  EXPECT_THAT(message_of<FormatError>([&] { SafetensorsFile(path, {.max_header_bytes = parts.header().size() - 1}); }),
              HasSubstr("header too large"));
}

// The elements are none, but the strides are products of the other dimensions.
TEST(HostileSafetensors, ZeroAmongHugeDimensionsHidesNoOverflow) {
  const test::HeaderParts parts{.shape = "[0,4611686018427387904,8]", .offsets = "[0,0]"};
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(parse_safetensors_header(parts.header(), 0, "x")); }),
              HasSubstr("overflow"));
}

TEST(HostileSafetensors, EmptyTensorsMayShareAnOffsetInAnyOrder) {
  const std::string empty1 = test::HeaderParts{.name = "\"z\"", .shape = "[0]", .offsets = "[16,16]"}.member();
  const std::string empty2 = test::HeaderParts{.name = "\"y\"", .shape = "[0]", .offsets = "[0,0]"}.member();
  const std::string header = "{" + empty1 + "," + test::HeaderParts{}.member() + "," + empty2 + "}";
  const auto parsed = parse_safetensors_header(header, 16, "x");
  ASSERT_EQ(parsed.entries.size(), 3U);
  EXPECT_EQ(parsed.entries[0].name, "y");
  EXPECT_EQ(parsed.entries[1].name, "a");
  EXPECT_EQ(parsed.entries[2].name, "z");
}

TEST(HostileSafetensors, BoolByteOtherThanZeroAndOneIsRefusedWhenRead) {
  const TemporaryFolder folder;
  const auto path = folder.write(
      "a", test::safetensors_bytes(test::HeaderParts{.dtype = "\"BOOL\"", .shape = "[3]", .offsets = "[0,3]"}.header(),
                                   "\x01\x00\x02"s));
  const SafetensorsFile file(path);
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(file.read("a")); }),
              AllOf(HasSubstr("tensor 'a'"), HasSubstr("expected BOOL bytes of 0 or 1, found 2")));
}

TEST(HostileSafetensors, FileThatShrinksAfterItsHeaderWasReadIsAnError) {
  const TemporaryFolder folder;
  const auto path = folder.write("a", test::safetensors_bytes(test::HeaderParts{}.header(), std::string(16, '\0')));
  const SafetensorsFile file(path);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(file.read("a")); }), HasSubstr("truncated"));
}

// ---- damage to a good file ----

std::string small_file() {
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," + test::HeaderParts{}.member() + "," +
                             R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},)" +
                             R"("c":{"dtype":"BOOL","shape":[2],"data_offsets":[22,24]}})";
  std::string data;
  for (int i = 0; i < 22; ++i) data += static_cast<char>(i);
  return test::safetensors_bytes(header, data + "\x01\x00"s);
}

TEST(DamagedSafetensors, CutOffAtAnyByteIsRefused) {
  const test::MemoryFile file;
  const std::string whole = small_file();
  EXPECT_EQ(read_safetensors(file.write(whole)).size(), 3U);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const auto path = file.write(whole.substr(0, length));
    EXPECT_NE(refusal_of_file(path), "") << "cut off after " << length << " bytes";
  }
}

// Whatever the damage: a FormatError, or tensors no larger than the file.
void expect_error_or_tensors(const std::filesystem::path& path, std::size_t size) {
  try {
    std::size_t total = 0;
    for (const auto& [name, tensor] : read_safetensors(path)) total += tensor.nbytes();
    ASSERT_LE(total, size);
  } catch (const FormatError&) {  // the other good outcome
  }
}

TEST(DamagedSafetensors, AnyOneBitFlippedGivesAnErrorOrTensors) {
  const test::MemoryFile file;
  const std::string whole = small_file();
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    expect_error_or_tensors(file.write(damaged), damaged.size());
  }
}

TEST(DamagedSafetensors, ManyBytesReplacedGiveAnErrorOrTensors) {
  const test::MemoryFile file;
  const std::string whole = small_file();
  std::mt19937 random(20240607);
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = whole;
    for (std::uint32_t left = random() % 8 + 1; left > 0; --left) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    expect_error_or_tensors(file.write(damaged), damaged.size());
  }
}

}  // namespace
}  // namespace thaw::hostile_test
