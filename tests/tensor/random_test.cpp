#include "thaw/tensor/random.h"

#include <ATen/core/PhiloxRNGEngine.h>

#include <cmath>
#include <numeric>
#include <unordered_set>

#include "../../src/tensor/philox_impl.h"
#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"

namespace thaw::random_test {
namespace {

using test::message_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kLargestIndex = (std::uint64_t{1} << 44) - 1;

// Random123 1.14, tests/kat_vectors, the lines "philox4x32 10".
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_THAT(detail::philox4x32_10({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_THAT(detail::philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
              ElementsAre(0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU));
  EXPECT_THAT(detail::philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U));
}

TEST(Philox, AgreesWithLibTorchsEngine) {
  for (std::uint64_t i = 0; i < 200; ++i) {
    const std::uint64_t seed = 0x9e3779b97f4a7c15 * (i + 1);
    const std::uint64_t subsequence = 0xbf58476d1ce4e5b9 * i;
    at::Philox4_32 engine(seed, subsequence, i);
    const auto words =
        detail::philox4x32_10({static_cast<std::uint32_t>(i), 0, static_cast<std::uint32_t>(subsequence),
                               static_cast<std::uint32_t>(subsequence >> 32)},
                              {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    for (const std::uint32_t word : words) ASSERT_EQ(word, engine());
  }
}

// From an independent implementation in Python. They may never change: a resumed run draws its past again.
constexpr RandomKey kPinned{
    .seed = 0x123456789abcdef0, .stream = RandomStream::test, .step = 12345678901, .sample = 9876543210};

TEST(RandomUniform, NumbersOfAKeyNeverChange) {
  const at::Tensor expected = at::tensor({0.3578572770756775, 0.49603102777283314, 0.8933236084936153,
                                          0.6262112412538917, 0.3539701453925387, 0.6034521155860167},
                                         at::kDouble);
  EXPECT_TRUE(bitwise_equal(random_uniform(kPinned, 6), expected));
}

TEST(RandomNormal, NumbersOfAKeyNeverChange) {
  const at::Tensor expected = at::tensor({-1.4331657886505127, 0.03574739396572113, -0.33330079913139343,
                                          -0.33841297030448914, -1.1473159790039062, -0.8722106218338013},
                                         at::kFloat);
  const auto result = compare_tensors(random_normal(kPinned, {6}), expected, {.relative = 0x1p-23});
  EXPECT_TRUE(result) << result.message;
}

TEST(RandomPermutation, OrderOfAKeyNeverChanges) {
  EXPECT_THAT(random_permutation(kPinned, 10), ElementsAre(5, 0, 6, 1, 9, 2, 8, 7, 4, 3));
}

TEST(RandomNormal, ElementDependsOnItsIndexAloneNotOnTheShape) {
  const RandomKey key{.seed = 1, .stream = RandomStream::test};
  const at::Tensor flat = random_normal(key, {30});
  EXPECT_TRUE(bitwise_equal(random_normal(key, {2, 3, 5}), flat.reshape({2, 3, 5})));
  EXPECT_TRUE(bitwise_equal(random_normal(key, {7}), flat.slice(0, 0, 7)));  // an odd count cuts a pair
  EXPECT_EQ(random_normal(key, {3, 0}).numel(), 0);
  EXPECT_EQ(random_normal(key, {}).dim(), 0);
  EXPECT_EQ(random_normal(key, {1}).scalar_type(), at::kFloat);
}

std::vector<RandomKey> neighbouring_keys() {
  std::vector<RandomKey> keys;
  const std::array<std::uint64_t, 6> indices{0, 1, 2, std::uint64_t{1} << 20, std::uint64_t{1} << 32, kLargestIndex};
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}}) {
    for (const RandomStream stream : {RandomStream::noise, RandomStream::time, RandomStream::test}) {
      for (const std::uint64_t step : indices) {
        for (const std::uint64_t sample : indices) keys.push_back({seed, stream, step, sample});
      }
    }
  }
  return keys;
}

TEST(RandomUniform, NoTwoKeysShareANumber) {
  std::unordered_set<double> seen;
  std::size_t drawn = 0;
  for (const RandomKey& key : neighbouring_keys()) {
    const at::Tensor numbers = random_uniform(key, 64);
    for (std::int64_t i = 0; i < 64; ++i) seen.insert(numbers.const_data_ptr<double>()[i]);
    drawn += 64;
  }
  EXPECT_EQ(seen.size(), drawn);
}

TEST(RandomKey, IndexBeyondTheCounterIsRefused) {
  const auto refusal = [](RandomKey key) {
    return message_of<UsageError>([&] { static_cast<void>(random_uniform(key, 1)); });
  };
  EXPECT_THAT(refusal({.step = kLargestIndex + 1}), HasSubstr("step: expected less than 2^44, found 17592186044416"));
  EXPECT_THAT(refusal({.sample = ~std::uint64_t{0}}), HasSubstr("sample: expected less than 2^44"));
  EXPECT_EQ(refusal({.step = kLargestIndex, .sample = kLargestIndex}), "(nothing was thrown)");
}

TEST(RandomPermutation, NegativeLengthIsRefused) {
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(random_permutation({}, -1)); }), HasSubstr("found -1"));
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(random_uniform({}, -1)); }), HasSubstr("found -1"));
}

// ---- statistics. The keys are fixed, so these cannot fail by chance; the bounds are those of a test at 1e-6 or less.
// ----

/// sqrt(n) times the largest distance between the empirical distribution of `values` and `distribution`.
template <class Distribution>
double kolmogorov_smirnov(std::vector<double> values, Distribution distribution) {
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  double worst = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double expected = distribution(values[i]);
    worst = std::max({worst, expected - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - expected});
  }
  return worst * std::sqrt(n);
}

double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

std::vector<double> as_doubles(const at::Tensor& tensor) {
  const at::Tensor converted = tensor.to(at::kDouble).contiguous();
  const double* data = converted.const_data_ptr<double>();
  return {data, data + converted.numel()};
}

// At 1e-6: P(K > 2.7) = 2 exp(-2 * 2.7²) = 9.3e-7.
constexpr double kKolmogorovBound = 2.7;

TEST(RandomNormal, IsStandardNormal) {
  constexpr std::int64_t kCount = 400'000;
  const at::Tensor numbers = random_normal({.seed = 7, .stream = RandomStream::test}, {kCount}).to(at::kDouble);
  const double n = kCount;
  EXPECT_LT(std::abs(numbers.mean().item<double>()), 5.0 / std::sqrt(n));
  EXPECT_LT(std::abs(numbers.square().mean().item<double>() - 1.0), 5.0 * std::sqrt(2.0 / n));
  EXPECT_LT(std::abs(numbers.pow(3).mean().item<double>()), 5.0 * std::sqrt(15.0 / n));
  EXPECT_LT(std::abs(numbers.pow(4).mean().item<double>() - 3.0), 5.0 * std::sqrt(96.0 / n));
  EXPECT_LT(kolmogorov_smirnov(as_doubles(numbers), normal_distribution), kKolmogorovBound);
}

TEST(RandomNormal, FirstElementsOfManyKeysAreStandardNormalToo) {
  std::vector<double> by_step;
  std::vector<double> by_sample;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    by_step.push_back(random_normal({.seed = 3, .stream = RandomStream::test, .step = i}, {1}).item<double>());
    by_sample.push_back(random_normal({.seed = 3, .stream = RandomStream::test, .sample = i}, {1}).item<double>());
  }
  double product = 0.0;
  for (std::size_t i = 1; i < by_step.size(); ++i) product += by_step[i] * by_step[i - 1];
  EXPECT_LT(std::abs(product / std::sqrt(20'000.0)), 5.0);
  EXPECT_LT(kolmogorov_smirnov(by_step, normal_distribution), kKolmogorovBound);
  EXPECT_LT(kolmogorov_smirnov(by_sample, normal_distribution), kKolmogorovBound);
}

TEST(RandomUniform, IsUniformInTheOpenInterval) {
  const auto values = as_doubles(random_uniform({.seed = 11, .stream = RandomStream::test}, 400'000));
  EXPECT_GT(*std::min_element(values.begin(), values.end()), 0.0);
  EXPECT_LT(*std::max_element(values.begin(), values.end()), 1.0);
  EXPECT_LT(kolmogorov_smirnov(values, [](double x) { return x; }), kKolmogorovBound);
}

TEST(RandomPermutation, IsAPermutation) {
  for (const std::int64_t n : {0, 1, 2, 3, 1000}) {
    auto order = random_permutation({.seed = 5}, n);
    std::sort(order.begin(), order.end());
    std::vector<std::int64_t> expected(static_cast<std::size_t>(n));
    std::iota(expected.begin(), expected.end(), std::int64_t{0});
    EXPECT_EQ(order, expected);
  }
}

TEST(RandomPermutation, EveryOrderIsEquallyLikely) {
  std::map<std::vector<std::int64_t>, double> counts;
  constexpr double kDraws = 24'000;
  for (std::uint64_t i = 0; i < 24'000; ++i) {
    counts[random_permutation({.seed = 5, .stream = RandomStream::test, .step = i}, 4)] += 1;
  }
  ASSERT_EQ(counts.size(), 24U);
  double chi_squared = 0.0;
  for (const auto& [order, count] : counts) chi_squared += std::pow(count - kDraws / 24, 2) / (kDraws / 24);
  EXPECT_LT(chi_squared, 70.0);  // 23 degrees of freedom: P = 1.2e-6
}

}  // namespace
}  // namespace thaw::random_test
