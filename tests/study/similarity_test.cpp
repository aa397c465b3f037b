// CKA, cosines and angles against a restatement in NumPy (make_measures.py), and on cases whose answer is known.
#include "thaw/study/similarity.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "measures_golden.h"
#include "thaw/core/error.h"
#include "thaw/tensor/random.h"

namespace thaw::similarity_test {
namespace {

using test::expect_close;
using test::golden;
using test::golden_streams;
using testing::HasSubstr;

constexpr std::int64_t kStates = 5;

at::Tensor noise(std::uint64_t number, at::IntArrayRef shape) {
  return random_normal({.seed = 11, .stream = RandomStream::test, .sample = number}, shape);
}

std::vector<at::Tensor> part_of(const std::vector<at::Tensor>& states, std::int64_t from, std::int64_t to) {
  std::vector<at::Tensor> rows;
  for (const at::Tensor& state : states) rows.push_back(state.slice(0, from, to));
  return rows;
}

/// Adds the golden rows in pieces of these sizes.
template <class Sums>
void add_in_pieces(Sums& sums, const std::vector<std::int64_t>& sizes) {
  std::int64_t from = 0;
  for (const std::int64_t size : sizes) {
    sums.add(part_of(golden_streams(), from, from + size));
    from += size;
  }
}

at::Tensor as_tensor(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

TEST(BiasedCka, EqualsItsDefinitionForEveryPair) {
  const std::vector<at::Tensor> states = golden_streams();
  at::Tensor pairs = at::empty({kStates, kStates}, at::kDouble);
  for (std::int64_t i = 0; i < kStates; ++i) {
    for (std::int64_t j = 0; j < kStates; ++j) {
      pairs[i][j] = biased_cka(states[static_cast<std::size_t>(i)], states[static_cast<std::size_t>(j)]);
    }
  }
  expect_close(pairs, golden("pairs"));
}

TEST(BiasedCka, OfIndependentNoiseIsNearOneWhenThereAreFewRows) {
  EXPECT_NEAR(biased_cka(noise(0, {32, 2048}), noise(1, {32, 2048})), 0.985, 0.003);
  EXPECT_NEAR(biased_cka(noise(2, {2048, 64}), noise(3, {2048, 64})), 1.0 / (1.0 + 2048.0 / 64.0), 0.003);
}

TEST(BiasedCka, DoesNotChangeUnderShiftScaleAndRotation) {
  const at::Tensor x = noise(4, {40, 6}).to(at::kDouble);
  const at::Tensor y = x + 0.5 * noise(5, {40, 6});
  const at::Tensor rotation = std::get<0>(at::linalg_qr(noise(6, {6, 6}).to(at::kDouble)));
  EXPECT_NEAR(biased_cka(x, y), biased_cka(3.0 * x.matmul(rotation) + 7.0, y - 2.0), 1e-12);
  EXPECT_NEAR(biased_cka(x, x), 1.0, 1e-12);
}

TEST(BiasedCka, RowsOfDifferentNumberThrow) {
  try {
    static_cast<void>(biased_cka(at::ones({4, 2}), at::ones({5, 2})));
    FAIL() << "taken";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("4 rows in both, found 5"));
  }
}

TEST(MinibatchCka, EqualsItsDefinitionWhateverThePiecesAre) {
  for (const std::vector<std::int64_t>& sizes :
       {std::vector<std::int64_t>{90}, {1, 2, 3, 84}, {40, 50}, {32, 32, 26}}) {
    MinibatchCka sums(kStates, {.rows = 32});
    add_in_pieces(sums, sizes);
    const CkaMatrices found = sums.matrices();
    expect_close(found.biased, golden("biased"));
    expect_close(found.unbiased, golden("unbiased"));
    expect_close(found.trimmed, golden("trimmed"));
    EXPECT_EQ(found.rows, 90);
    EXPECT_EQ(found.minibatches, 3);
  }
}

TEST(MinibatchCka, BiasedOfOneMinibatchIsThePlainDefinition) {
  MinibatchCka sums(kStates, {.rows = 90});
  add_in_pieces(sums, {90});
  expect_close(sums.matrices().biased, golden("pairs"));
}

TEST(MinibatchCka, OfIndependentNoiseIsNearZeroWhereTheBiasedIsNearOne) {
  MinibatchCka sums(2, {.rows = 32});
  for (std::uint64_t batch = 0; batch < 8; ++batch) {
    const std::vector<at::Tensor> rows{noise(20 + 2 * batch, {32, 2048}), noise(21 + 2 * batch, {32, 2048})};
    sums.add(rows);
  }
  const CkaMatrices found = sums.matrices();
  EXPECT_NEAR(found.biased[0][1].item<double>(), 0.985, 0.002);
  EXPECT_NEAR(found.unbiased[0][1].item<double>(), 0.0, 0.03);
}

TEST(MinibatchCka, OneMassiveDimensionInCommonIsTrimmed) {
  at::Tensor x = noise(50, {256, 128});
  at::Tensor y = noise(51, {256, 128});
  const at::Tensor shared = 400.0 * noise(52, {256});
  x.select(1, 3).copy_(shared);
  y.select(1, 3).copy_(shared);
  MinibatchCka sums(2, {.rows = 256});
  sums.add(std::vector<at::Tensor>{x, y});
  const CkaMatrices found = sums.matrices();
  EXPECT_GT(found.unbiased[0][1].item<double>(), 0.99);
  EXPECT_NEAR(found.trimmed[0][1].item<double>(), 0.0, 0.05);
}

TEST(MinibatchCka, UpToThreeRowsAtTheEndAreNotUsed) {
  MinibatchCka with(kStates, {.rows = 29});
  add_in_pieces(with, {90});  // 3 · 29 + 3
  MinibatchCka without(kStates, {.rows = 29});
  add_in_pieces(without, {87});
  EXPECT_EQ(with.matrices().rows, 87);
  expect_close(with.matrices().unbiased, without.matrices().unbiased);
}

TEST(MinibatchCka, TooFewRowsForTheUnbiasedEstimateThrow) {
  MinibatchCka sums(kStates);
  add_in_pieces(sums, {3});
  try {
    static_cast<void>(sums.matrices());
    FAIL() << "taken";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("expected at least 4 rows, found 3. Give more calibration samples."));
  }
}

TEST(MinibatchCka, OptionsOutOfRangeThrow) {
  const auto error_of = [](const MinibatchCkaOptions& options) -> std::string {
    try {
      const MinibatchCka sums(2, options);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "taken";
  };
  EXPECT_THAT(error_of({.rows = 3}), HasSubstr("MinibatchCkaOptions.rows: expected at least 4, found 3"));
  EXPECT_THAT(error_of({.massive_ratio = 1.0}), HasSubstr("massive_ratio: expected above 1"));
}

TEST(UnbiasedHsic, DoesNotReadTheDiagonal) {
  const at::Tensor k = noise(60, {9, 9}).to(at::kDouble);
  const at::Tensor l = noise(61, {9, 9}).to(at::kDouble);
  EXPECT_NEAR(unbiased_hsic(k, l), unbiased_hsic(k + 5.0 * at::eye(9, at::kDouble), l), 1e-12);
}

TEST(ConcatenatedCka, IsTheBiasedOneOfAllRowsWhateverThePiecesAre) {
  for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{90}, {1, 2, 87}, {45, 45}}) {
    ConcatenatedCka sums(kStates);
    add_in_pieces(sums, sizes);
    expect_close(as_tensor(sums.successive()), golden("concatenated"));
  }
}

TEST(ConcatenatedCka, IsNoNumberWithoutVariance) {
  ConcatenatedCka sums(2);
  sums.add(std::vector<at::Tensor>{at::ones({8, 3}), noise(70, {8, 3})});
  EXPECT_TRUE(std::isnan(sums.successive().at(0)));
}

TEST(Directions, EqualTheirDefinitionWhateverThePiecesAre) {
  for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{90}, {1, 89}}) {
    Directions sums(kStates);
    add_in_pieces(sums, sizes);
    expect_close(sums.cosine(), golden("cosine"));
    expect_close(sums.angular(), golden("angular"));
  }
}

TEST(Directions, OppositeRowsAreOneApartAndPerpendicularOnesHalf) {
  const at::Tensor x = at::tensor({1.0, 0.0}, at::kDouble).unsqueeze(0);
  const at::Tensor y = at::tensor({0.0, 2.0}, at::kDouble).unsqueeze(0);
  Directions sums(3);
  sums.add(std::vector<at::Tensor>{x, y, -3.0 * x});
  expect_close(sums.angular(), at::tensor({0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0}, at::kDouble).view({3, 3}));
}

TEST(DimensionSizes, EqualTheirDefinition) {
  DimensionSizes sums(kStates);
  add_in_pieces(sums, {30, 60});
  for (std::int64_t state = 0; state < kStates; ++state) {
    expect_close(sums.mean_square(state), golden("mean_square")[state]);
    expect_close(sums.variance(state), golden("variance")[state]);
  }
}

TEST(Directions, StatesOfUnequalRowsThrow) {
  Directions sums(2);
  const std::vector<at::Tensor> unequal{at::ones({3, 4}), at::ones({2, 4})};
  try {
    sums.add(unequal);
    FAIL() << "taken";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("2 matrices of equally many rows, found 2, one of shape (2, 4)"));
  }
}

TEST(MassiveDimensions, AreThoseFarAboveTheMedian) {
  at::Tensor sizes = at::ones({9}, at::kDouble);
  sizes[4] = 101.0;
  sizes[6] = 99.0;
  EXPECT_THAT(massive_dimensions(sizes, 100.0), testing::ElementsAre(4));
  EXPECT_THAT(massive_dimensions(golden("variance")[2], 100.0), testing::ElementsAre(7));
  EXPECT_THAT(massive_dimensions(at::zeros({5}, at::kDouble), 100.0), testing::IsEmpty());
}

}  // namespace
}  // namespace thaw::similarity_test
