// What the forms of storage do to numbers.
#include <gmock/gmock.h>

#include <limits>

#include "cache/entries.h"
#include "core/temporary_folder.h"

namespace thaw::storage_test {
namespace {

using test::identity;
using test::in_memory;
using test::key_of;
using test::numbers;
using test::on_disk;
using test::TemporaryFolder;

/// Where the entry comes back from.
enum class From { memory, disk };

CacheEntry through_cache(const CacheEntry& entry, CacheStorage storage, From from) {
  const TemporaryFolder folder;
  CacheOptions options = from == From::disk ? on_disk(folder.path()) : in_memory();
  options.storage = storage;
  PrefixCache cache(identity(), options);
  cache.store(key_of(1), entry);
  const auto found = cache.find(key_of(1));
  EXPECT_TRUE(found.has_value());
  EXPECT_EQ(cache.statistics().disk_hits, from == From::disk ? 1 : 0);
  return found.value_or(CacheEntry{});
}

at::Tensor through_cache(const at::Tensor& tensor, CacheStorage storage, From from) {
  return through_cache(CacheEntry{.tensors = {{"k", tensor}}}, storage, from).tensors.at("k");
}

/// (1, 32, 50): row r is about 10^(r / 4 − 4).
at::Tensor of_all_sizes() {
  const at::Tensor sizes = at::pow(10.0, at::arange(32, at::kDouble) / 4.0 - 4.0).view({1, 32, 1});
  return (numbers(1600, 1).view({1, 32, 50}) * sizes);
}

class Storage : public ::testing::TestWithParam<From> {};

TEST_P(Storage, ExactKeepsEveryBitOfEveryType) {
  CacheEntry entry = test::entry_of(3);
  constexpr float kQuiet = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  entry.tensors["odd"] = at::tensor({-0.0F, 1e-42F, kInfinite, -kInfinite, kQuiet, -kQuiet}).view({1, 6});
  entry.tensors["empty"] = at::empty({1, 0, 4});
  for (const auto type : {at::kDouble, at::kHalf, at::kShort, at::kChar, at::kByte, at::kUInt16, at::kFloat8_e4m3fn}) {
    entry.tensors[std::string("type ") + c10::toString(type)] = numbers(7, 2).view({1, 7}).to(type);
  }
  EXPECT_TRUE(test::same(through_cache(entry, CacheStorage::exact, GetParam()), entry));
}

TEST_P(Storage, AStridedTensorThatNeedsAGradientIsKeptByItsValues) {
  const at::Tensor leaf = numbers(12, 1).view({4, 3}).to(at::kFloat).set_requires_grad(true);
  const at::Tensor strided = (leaf * 2).t().unsqueeze(0);
  const at::Tensor found = through_cache(strided, CacheStorage::exact, GetParam());
  EXPECT_TRUE(bitwise_equal(found, strided.detach().contiguous()));
  EXPECT_FALSE(found.requires_grad());
}

TEST_P(Storage, Bf16IsOffByAtMostTwoToTheMinusEight) {
  for (const auto type : {at::kFloat, at::kDouble}) {
    const at::Tensor tensor = of_all_sizes().to(type);
    const at::Tensor found = through_cache(tensor, CacheStorage::bf16, GetParam());
    // Eight significant bits, rounded to nearest: half of 2^-7.
    const Comparison comparison = compare_tensors(found, tensor, {.relative = 0x1p-8});
    EXPECT_TRUE(comparison) << comparison.message;
    EXPECT_FALSE(compare_tensors(found, tensor, {.relative = 0x1p-10})) << "nothing was rounded";
  }
}

TEST_P(Storage, Int8IsOffByAtMostHalfAStepOfItsRow) {
  for (const auto type : {at::kFloat, at::kDouble}) {
    const at::Tensor tensor = of_all_sizes().to(type);
    const at::Tensor found = through_cache(tensor, CacheStorage::int8, GetParam());
    for (std::int64_t row = 0; row < tensor.size(1); ++row) {
      // Half a step is 1/254 of the largest magnitude; the quotient, the product and, of a double, the conversion to
      // float32 are rounded: three times at most 127 steps · 2^-24, together less than 2^-15 of half a step.
      const Comparison comparison =
          compare_tensors(found.select(1, row), tensor.select(1, row), {.relative_to_max = (1.0 + 0x1p-14) / 254.0});
      EXPECT_TRUE(comparison) << "row " << row << ": " << comparison.message;
    }
    EXPECT_FALSE(compare_tensors(found, tensor, {.relative = 1e-3})) << "nothing was rounded";
  }
}

TEST_P(Storage, Int8OfSixteenBitTypesIsOffByTheirOwnRoundingAsWell) {
  for (const auto type : {at::kHalf, at::kBFloat16}) {
    const at::Tensor tensor = numbers(256, 4).view({1, 4, 64}).to(type);
    const at::Tensor found = through_cache(tensor, CacheStorage::int8, GetParam());
    ASSERT_EQ(found.scalar_type(), type);
    const Comparison comparison =
        compare_tensors(found, tensor, {.relative = 0x1p-8, .relative_to_max = (1.0 + 0x1p-7) / 254.0});
    EXPECT_TRUE(comparison) << comparison.message;
  }
}

TEST_P(Storage, TheLargestOfARowAndItsZerosSurviveInt8) {
  const at::Tensor tensor = at::tensor({-3.0F, 0.0F, 1.0F, 0.0F, 0.0F, 0.0F}).view({1, 2, 3});
  const at::Tensor found = through_cache(tensor, CacheStorage::int8, GetParam());
  EXPECT_TRUE(compare_tensors(found.select(1, 1), tensor.select(1, 1)));
  EXPECT_TRUE(
      compare_tensors(found.select(1, 0).narrow(1, 0, 2), tensor.select(1, 0).narrow(1, 0, 2), {.relative = 0x1p-22}));
}

TEST_P(Storage, WhatAFormCannotHoldIsKeptExactly) {
  constexpr float kQuiet = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  constexpr float kMost = std::numeric_limits<float>::max();  // rounds to an infinity in bfloat16
  const at::Tensor odd = at::tensor({0.1F, kQuiet, 0.2F}).view({1, 3});
  EXPECT_TRUE(bitwise_equal(through_cache(odd, CacheStorage::int8, GetParam()), odd));
  const at::Tensor infinite = at::tensor({0.1F, -kInfinite, 0.2F}).view({1, 3});
  EXPECT_TRUE(bitwise_equal(through_cache(infinite, CacheStorage::int8, GetParam()), infinite));
  const at::Tensor large = at::tensor({0.1F, kMost}).view({1, 2});
  EXPECT_TRUE(bitwise_equal(through_cache(large, CacheStorage::bf16, GetParam()), large));
  const at::Tensor half = numbers(9, 1).view({1, 9}).to(at::kHalf);
  EXPECT_TRUE(bitwise_equal(through_cache(half, CacheStorage::bf16, GetParam()), half));
  const CacheEntry with_empty{.tensors = {{"empty", at::empty({1, 3, 0})}, {"half", half}}};
  EXPECT_TRUE(test::same(through_cache(with_empty, CacheStorage::bf16, GetParam()), with_empty));
  const at::Tensor empty = through_cache(with_empty, CacheStorage::int8, GetParam()).tensors.at("empty");
  EXPECT_TRUE(bitwise_equal(empty, with_empty.tensors.at("empty")));
}

TEST_P(Storage, NumbersTooSmallForAScaleAreOffByLittle) {
  const at::Tensor tiny = at::tensor({1e-44F, -3e-40F, 1e-39F}).view({1, 3, 1});
  const Comparison comparison =
      compare_tensors(through_cache(tiny, CacheStorage::int8, GetParam()), tiny, {.absolute = 1e-42});
  EXPECT_TRUE(comparison) << comparison.message;
}

TEST_P(Storage, IntegersAndBooleansAreExactInEveryForm) {
  const CacheEntry entry = test::entry_of(2);
  for (const auto storage : {CacheStorage::bf16, CacheStorage::int8}) {
    const CacheEntry found = through_cache(entry, storage, GetParam());
    for (const char* key : {"mask", "ids", "length"}) {
      EXPECT_TRUE(bitwise_equal(found.tensors.at(key), entry.tensors.at(key))) << key;
    }
    for (const char* key : {"keys.0", "hidden"}) {
      EXPECT_EQ(found.tensors.at(key).scalar_type(), entry.tensors.at(key).scalar_type()) << key;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Comes, Storage, ::testing::Values(From::memory, From::disk), [](const auto& tested) {
  return std::string(tested.param == From::memory ? "FromMemory" : "FromDisk");
});

TEST(CacheBudget, CountsTheBytesOfTheForm) {
  const CacheEntry entry{.tensors = {{"k", numbers(6400, 1).view({1, 64, 100}).to(at::kFloat)}}};
  const auto bytes_with = [&](CacheStorage storage) {
    CacheOptions options = in_memory();
    options.storage = storage;
    PrefixCache cache(identity(), options);
    cache.store(key_of(1), entry);
    return cache.statistics().memory_bytes;
  };
  EXPECT_EQ(bytes_with(CacheStorage::exact), entry.bytes());
  EXPECT_EQ(bytes_with(CacheStorage::bf16), entry.bytes() / 2);
  EXPECT_EQ(bytes_with(CacheStorage::int8), entry.bytes() / 4 + 64 * 4);
}

}  // namespace
}  // namespace thaw::storage_test
