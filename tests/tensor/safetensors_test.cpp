#include "thaw/tensor/safetensors.h"

#include <limits>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "support/paths.h"
#include "tensor/hostile_corpus.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/dtype.h"

namespace thaw::safetensors_test {
namespace {

using test::message_of;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::filesystem::path reference_path() {
  return std::filesystem::path(thaw::test::source_dir()) / "tests" / "tensor" / "data" / "reference.safetensors";
}

const std::string kOddName = "quote \" backslash \\ tab \t bell \x07 delete \x7f é 😀 /";

/// What make_reference_safetensors.py put into the reference file.
std::map<std::string, at::Tensor> reference_tensors() {
  std::map<std::string, at::Tensor> tensors;
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kFloat8_e4m3fn, at::kFloat8_e5m2}) {
    tensors[fmt::format("torch.{}", dtype_name(dtype))] = at::tensor({0.0F, 1.0F, -2.0F, 3.5F}).to(dtype);
  }
  tensors["torch.int64"] =
      at::tensor({std::numeric_limits<std::int64_t>::min(), std::int64_t{0}, std::numeric_limits<std::int64_t>::max()});
  tensors["torch.int32"] = at::tensor({-2147483647 - 1, 0, 2147483647});
  tensors["torch.int16"] = at::tensor({-32768, 0, 32767}).to(at::kShort);
  tensors["torch.int8"] = at::tensor({-128, 0, 127}).to(at::kChar);
  for (auto& [name, tensor] : tensors) {
    if (name.starts_with("torch.int")) tensor = tensor.reshape({1, 3});
  }
  for (const auto dtype : {at::kUInt64, at::kUInt32, at::kUInt16, at::kByte}) {
    tensors[fmt::format("torch.{}", dtype_name(dtype))] = at::tensor({0, 1, 7}).to(dtype);
  }
  tensors["torch.bool"] = at::tensor({1, 0, 1}).to(at::kBool);
  tensors["scalar"] = at::scalar_tensor(2.5F);
  tensors["empty"] = at::zeros({2, 0, 3});
  tensors[kOddName] = at::arange(6.0).to(at::kFloat).reshape({2, 3});
  tensors["Z"] = at::zeros({1});
  tensors["a"] = at::ones({1});
  return tensors;
}

std::vector<NamedTensor> as_list(const std::map<std::string, at::Tensor>& tensors) {
  std::vector<NamedTensor> list;
  for (const auto& [name, tensor] : tensors) list.push_back({name, tensor});
  return list;
}

void expect_same(const std::map<std::string, at::Tensor>& actual, const std::map<std::string, at::Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    const auto found = actual.find(name);
    ASSERT_NE(found, actual.end()) << name;
    EXPECT_TRUE(bitwise_equal(found->second, tensor)) << name << ": " << compare_tensors(found->second, tensor).message;
  }
}

// ---- reading ----

TEST(SafetensorsFile, ReadsEveryTypeOfTheReferenceFile) {
  expect_same(read_safetensors(reference_path()), reference_tensors());
  EXPECT_THAT(SafetensorsFile(reference_path()).metadata(), ElementsAre(Pair("format", "pt \"\n")));
}

TEST(SafetensorsFile, EntriesComeInTheOrderOfTheData) {
  const SafetensorsFile file(reference_path());
  EXPECT_EQ(file.entries().front().name, "torch.uint64");
  EXPECT_EQ(file.entries().back().name, "torch.bool");
  std::uint64_t end = 0;
  for (const SafetensorsEntry& entry : file.entries()) {
    EXPECT_EQ(entry.begin, end);
    end = entry.end;
  }
}

TEST(SafetensorsFile, EntrySaysTypeAndShape) {
  const SafetensorsFile file(reference_path());
  EXPECT_TRUE(file.contains("empty"));
  EXPECT_FALSE(file.contains("Empty"));
  EXPECT_EQ(file.entry("torch.bfloat16").dtype, at::kBFloat16);
  EXPECT_THAT(file.entry("empty").shape, ElementsAre(2, 0, 3));
  EXPECT_EQ(file.path(), reference_path());
}

TEST(SafetensorsFile, UnknownNameIsRefusedWithTheNearest) {
  const SafetensorsFile file(reference_path());
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(file.read("torch.bfloat")); }),
              AllOf(HasSubstr("reference.safetensors: expected a tensor named 'torch.bfloat', found none"),
                    HasSubstr("Did you mean 'torch.bfloat16', 'torch.float64', 'torch.float32'?")));
}

TEST(SafetensorsFile, TensorOutlivesTheFile) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  write_safetensors(path, std::vector<NamedTensor>{{"x", at::arange(1000)}});
  const at::Tensor tensor = SafetensorsFile(path).read("x");
  std::filesystem::resize_file(path, 0);
  EXPECT_TRUE(bitwise_equal(tensor, at::arange(1000)));
}

TEST(SafetensorsFile, MovedFileStillReads) {
  SafetensorsFile first(reference_path());
  const SafetensorsFile second = std::move(first);
  EXPECT_TRUE(bitwise_equal(second.read("a"), at::ones({1})));
}

// ---- writing ----

TEST(WriteSafetensors, GivesTheReferencesBytes) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  write_safetensors(path, as_list(reference_tensors()), {{"format", "pt \"\n"}});
  EXPECT_EQ(read_text(path), read_text(reference_path()));
}

TEST(WriteSafetensors, OrderOfTheArgumentsDoesNotMatter) {
  const TemporaryFolder folder;
  auto tensors = as_list(reference_tensors());
  write_safetensors(folder / "a", tensors);
  std::reverse(tensors.begin(), tensors.end());
  write_safetensors(folder / "b", tensors);
  EXPECT_EQ(read_text(folder / "a"), read_text(folder / "b"));
}

TEST(WriteSafetensors, HeaderEndsOnEightBytes) {
  const TemporaryFolder folder;
  for (std::size_t length = 1; length <= 8; ++length) {
    write_safetensors(folder / "a", std::vector<NamedTensor>{{std::string(length, 'n'), at::ones({2})}});
    EXPECT_EQ(std::filesystem::file_size(folder / "a") % 8, 0U);
  }
}

TEST(WriteSafetensors, WritesValuesNotStorage) {
  const TemporaryFolder folder;
  const at::Tensor matrix = at::arange(12.0).reshape({3, 4});
  const std::map<std::string, at::Tensor> views{{"transposed", matrix.t()},
                                                {"column", matrix.select(1, 2)},
                                                {"expanded", at::ones({1}).expand({5})},
                                                {"parameter", matrix.clone().requires_grad_(true)}};
  write_safetensors(folder / "a", as_list(views));
  std::map<std::string, at::Tensor> expected;
  for (const auto& [name, tensor] : views) expected[name] = tensor.detach().contiguous();
  expect_same(read_safetensors(folder / "a"), expected);
}

TEST(WriteSafetensors, NothingIsAValidFile) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {});
  EXPECT_EQ(read_text(folder / "a"), test::little_endian(8) + "{}      ");
  write_safetensors(folder / "b", {}, {{"b", "2"}, {"a", "é"}});
  EXPECT_THAT(SafetensorsFile(folder / "b").metadata(), ElementsAre(Pair("a", "é"), Pair("b", "2")));
}

TEST(WriteSafetensors, RefusesWhatAReaderWouldAndLeavesTheOldFile) {
  const TemporaryFolder folder;
  const auto path = folder.write("a", "old");
  const auto refusal = [&](const std::vector<NamedTensor>& tensors,
                           const std::map<std::string, std::string>& data = {}) {
    return message_of<UsageError>([&] { write_safetensors(path, tensors, data); });
  };
  const at::Tensor one = at::ones({1});
  EXPECT_THAT(refusal({{"x", one}, {"y", one}, {"x", one}}), AllOf(HasSubstr("tensor 'x'"), HasSubstr("twice")));
  EXPECT_THAT(refusal({{"x", at::ones({1}, at::kComplexFloat)}}), HasSubstr("ComplexFloat"));
  EXPECT_THAT(refusal({{"x", at::Tensor()}}), HasSubstr("an undefined one"));
  EXPECT_THAT(refusal({{"x", one.to_sparse()}}), HasSubstr("a dense tensor"));
  EXPECT_THAT(refusal({{"__metadata__", one}}), HasSubstr("reserved for metadata"));
  EXPECT_THAT(refusal({{std::string(1025, 'n'), one}}), HasSubstr("at most 1024 bytes of name"));
  EXPECT_THAT(refusal({{"x", at::ones({1, 1, 1, 1, 1, 1, 1, 1, 1})}}), HasSubstr("at most 8 dimensions"));
  EXPECT_THAT(refusal({{"\xff", one}}), HasSubstr("must be UTF-8"));
  EXPECT_THAT(refusal({{"x", one}}, {{"k", "\xc3"}}), HasSubstr("must be UTF-8"));
  EXPECT_EQ(read_text(path), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(WriteSafetensors, FailsWhereTheFolderIsMissing) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<IoError>([&] { write_safetensors(folder / "none/a", {}); }), HasSubstr("No such file"));
}

TEST(WriteSafetensors, ReplacesAFileThatIsOpen) {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  write_safetensors(path, std::vector<NamedTensor>{{"x", at::zeros({100})}});
  const SafetensorsFile old(path);
  write_safetensors(path, std::vector<NamedTensor>{{"x", at::ones({5})}});
  EXPECT_TRUE(bitwise_equal(old.read("x"), at::zeros({100})));
  EXPECT_TRUE(bitwise_equal(SafetensorsFile(path).read("x"), at::ones({5})));
}

}  // namespace
}  // namespace thaw::safetensors_test
