#include "thaw/tensor/compare.h"

#include <cmath>
#include <limits>

#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::compare_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const double kNan = std::numeric_limits<double>::quiet_NaN();
const double kInf = std::numeric_limits<double>::infinity();

at::Tensor doubles(std::initializer_list<double> values) { return at::tensor(values, at::kDouble); }

TEST(CompareTensors, EqualTensorsHaveNoMessage) {
  const auto result = compare_tensors(doubles({1, -2, 0}), doubles({1, -2, 0}));
  EXPECT_TRUE(result);
  EXPECT_EQ(result.worst, 0.0);
  EXPECT_THAT(result.message, IsEmpty());
}

TEST(CompareTensors, NamesTheWorstElement) {
  const auto actual = doubles({1, 2, 3, 4, 5, 6.5}).reshape({2, 3});
  const auto result = compare_tensors(actual, doubles({1, 2.25, 3, 4, 5, 6}).reshape({2, 3}), {.absolute = 0.125});
  EXPECT_FALSE(result);
  EXPECT_THAT(result.worst_index, ElementsAre(1, 2));
  EXPECT_EQ(result.worst_difference, 0.5);
  EXPECT_EQ(result.worst, 4.0);
  EXPECT_THAT(result.message, HasSubstr("float64 [2, 3]: at [1, 2] expected 6, found 6.5: off by 0.5, allowed 0.125"));
}

TEST(CompareTensors, WorstIsRelativeToItsOwnBound) {
  const auto result = compare_tensors(doubles({1000.5, 1.25}), doubles({1000, 1}), {.relative = 0.001});
  EXPECT_THAT(result.worst_index, ElementsAre(1));  // off by less, but allowed far less
}

TEST(CompareTensors, BoundIsInclusiveAndAddsItsParts) {
  const Bound bound{.absolute = 1.0, .relative = 0.5, .relative_to_max = 0.25};
  // allowed at the first element: 1 + 0.5 * 2 + 0.25 * 8 = 4
  EXPECT_TRUE(compare_tensors(doubles({6, 8}), doubles({2, 8}), bound));
  EXPECT_FALSE(compare_tensors(doubles({6.0001, 8}), doubles({2, 8}), bound));
}

TEST(CompareTensors, NegativeExpectedValueWidensTheBoundLikeAPositiveOne) {
  EXPECT_TRUE(compare_tensors(doubles({-11}), doubles({-10}), {.relative = 0.1}));
  EXPECT_TRUE(compare_tensors(doubles({-9}), doubles({-10}), {.relative_to_max = 0.1}));
  EXPECT_FALSE(compare_tensors(doubles({-11.1}), doubles({-10}), {.relative = 0.1}));
  EXPECT_FALSE(compare_tensors(doubles({10}), doubles({-10}), {.relative = 0.1}));
}

TEST(CompareTensors, NanEqualsOnlyNan) {
  EXPECT_TRUE(compare_tensors(doubles({kNan, 1}), doubles({kNan, 1})));
  for (const auto& [actual, expected] : {std::pair{kNan, 1.0}, std::pair{1.0, kNan}, std::pair{kNan, kInf}}) {
    const auto result = compare_tensors(doubles({0, actual}), doubles({0, expected}), {.absolute = 1e300});
    EXPECT_FALSE(result);
    EXPECT_EQ(result.worst, kInf);
    EXPECT_THAT(result.worst_index, ElementsAre(1));
    EXPECT_THAT(result.message, HasSubstr("nan"));
  }
}

TEST(CompareTensors, InfinityEqualsOnlyTheSameInfinity) {
  EXPECT_TRUE(compare_tensors(doubles({kInf, -kInf}), doubles({kInf, -kInf})));
  const Bound wide{.absolute = 1e300, .relative = 1e300, .relative_to_max = 1e300};
  EXPECT_FALSE(compare_tensors(doubles({kInf}), doubles({-kInf}), wide));
  EXPECT_FALSE(compare_tensors(doubles({1e308}), doubles({kInf}), wide));
  EXPECT_FALSE(compare_tensors(doubles({kInf}), doubles({1e308}), {.absolute = 1e300}));
}

TEST(CompareTensors, InfiniteElementDoesNotWidenTheBoundOfTheOthers) {
  EXPECT_FALSE(compare_tensors(doubles({kInf, 1.5}), doubles({kInf, 1.0}), {.relative_to_max = 0.1}));
  EXPECT_FALSE(compare_tensors(doubles({kNan, 1.5}), doubles({kNan, 1.0}), {.relative_to_max = 0.1}));
}

TEST(CompareTensors, NanIsWorseThanAnyNumber) {
  const auto result = compare_tensors(doubles({1e300, kNan, 5}), doubles({0, 0, 0}), {.absolute = 1});
  EXPECT_THAT(result.worst_index, ElementsAre(1));
}

TEST(CompareTensors, LargestDifferenceIsNamedWhereNothingIsAllowed) {
  EXPECT_THAT(compare_tensors(doubles({1, 5, 2}), doubles({0, 0, 0})).worst_index, ElementsAre(1));
}

TEST(CompareTensors, EmptyTensorsOfOneShapeAreEqual) {
  EXPECT_TRUE(compare_tensors(at::zeros({0, 3}), at::zeros({0, 3})));
  EXPECT_THAT(compare_tensors(at::zeros({0, 3}), at::zeros({3, 0})).message,
              HasSubstr("expected float32 [3, 0], found float32 [0, 3]"));
}

TEST(CompareTensors, ScalarHasAnEmptyIndex) {
  const auto result = compare_tensors(at::scalar_tensor(1.0), at::scalar_tensor(2.0));
  EXPECT_FALSE(result);
  EXPECT_THAT(result.worst_index, IsEmpty());
  EXPECT_THAT(result.message, HasSubstr("at [] expected 2, found 1"));
}

TEST(CompareTensors, OtherShapeOrTypeNeverComparesEqual) {
  const Bound wide{.absolute = 1e300};
  EXPECT_FALSE(compare_tensors(at::zeros({2, 3}), at::zeros({3, 2}), wide));
  EXPECT_FALSE(compare_tensors(at::zeros({1}), at::zeros({}), wide));
  const auto types = compare_tensors(at::zeros({1}, at::kFloat), at::zeros({1}, at::kDouble), wide);
  EXPECT_FALSE(types);
  EXPECT_EQ(types.worst, kInf);
  EXPECT_THAT(types.message, HasSubstr("expected float64 [1], found float32 [1]"));
  EXPECT_THAT(compare_tensors(at::Tensor(), at::zeros({1})).message, HasSubstr("found an undefined tensor"));
}

TEST(CompareTensors, IntegersBeyondTheDoublesAreToldApart) {
  const std::int64_t large = std::int64_t{1} << 60;
  EXPECT_FALSE(compare_tensors(at::tensor({large + 1}), at::tensor({large})));
  EXPECT_TRUE(compare_tensors(at::tensor({large + 1}), at::tensor({large}), {.absolute = 1}));
  const std::int64_t lowest = std::numeric_limits<std::int64_t>::min();
  const std::int64_t highest = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(compare_tensors(at::tensor({lowest}), at::tensor({highest})).worst_difference, 0x1p64);
}

TEST(CompareTensors, TakesEveryTypeAFileMayHold) {
  for (const auto dtype :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort, at::kChar, at::kByte,
        at::kUInt16, at::kUInt32, at::kUInt64, at::kBool, at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kComplexFloat}) {
    const at::Tensor ones = at::ones({2}).to(dtype);
    EXPECT_TRUE(compare_tensors(ones, ones.clone())) << c10::toString(dtype);
    EXPECT_FALSE(compare_tensors(at::zeros({2}).to(dtype), ones)) << c10::toString(dtype);
  }
}

TEST(CompareTensors, ComparesValuesNotStorage) {
  const at::Tensor matrix = at::arange(6.0).reshape({2, 3});
  EXPECT_TRUE(compare_tensors(matrix.t(), matrix.t().contiguous()));
  EXPECT_TRUE(compare_tensors(matrix.clone().requires_grad_(true), matrix));
  EXPECT_TRUE(compare_tensors(at::tensor({-0.0}), at::tensor({0.0})));
}

TEST(ReductionBound, GrowsWithTheRootOfTheTermsAndWithTheStepOfTheType) {
  const double one = reduction_bound(at::kFloat, 1).relative_to_max;
  EXPECT_EQ(one, 4 * std::numeric_limits<float>::epsilon());
  EXPECT_EQ(reduction_bound(at::kFloat, 100).relative_to_max, 10 * one);
  EXPECT_LT(reduction_bound(at::kDouble, 100).relative_to_max, 1e-13);
  EXPECT_GT(reduction_bound(at::kBFloat16, 1).relative_to_max, 0x1p-7);
  EXPECT_LT(reduction_bound(at::kBFloat16, 1024).relative_to_max, 0x1p-5);
  EXPECT_THAT(test::message_of<UsageError>([] { static_cast<void>(reduction_bound(at::kLong, 1)); }),
              AllOf(HasSubstr("bfloat16"), HasSubstr("found int64")));
}

// A bound nothing meets is no bound, and one that a wrong product meets is none either.
TEST(ReductionBound, HoldsForAProductAndNotForOneWithATermLeftOut) {
  at::manual_seed(0);
  const at::Tensor a = at::randn({32, 512}, at::kFloat);
  const at::Tensor b = at::randn({512, 32}, at::kFloat);
  const at::Tensor exact = at::matmul(a.to(at::kDouble), b.to(at::kDouble)).to(at::kFloat);
  const Bound bound = reduction_bound(at::kFloat, 512);
  const auto result = compare_tensors(at::matmul(a, b), exact, bound);
  EXPECT_TRUE(result) << result.message;
  EXPECT_FALSE(compare_tensors(at::matmul(a.slice(1, 0, 511), b.slice(0, 0, 511)), exact, bound));
}

TEST(BitwiseEqual, SeesTheSignOfZeroAndTheNanPayload) {
  EXPECT_TRUE(bitwise_equal(doubles({kNan, 1, -0.0}), doubles({kNan, 1, -0.0})));
  EXPECT_FALSE(bitwise_equal(doubles({-0.0}), doubles({0.0})));
  EXPECT_FALSE(bitwise_equal(doubles({kNan}), doubles({-kNan})));
}

TEST(BitwiseEqual, NeedsTheSameShapeAndType) {
  EXPECT_FALSE(bitwise_equal(at::zeros({2, 3}), at::zeros({3, 2})));
  EXPECT_FALSE(bitwise_equal(at::zeros({2}, at::kFloat), at::zeros({2}, at::kInt)));
  EXPECT_FALSE(bitwise_equal(at::Tensor(), at::zeros({2})));
  EXPECT_TRUE(bitwise_equal(at::zeros({0}), at::zeros({0})));
}

TEST(BitwiseEqual, ComparesValuesNotStorage) {
  const at::Tensor matrix = at::arange(6.0).reshape({2, 3});
  EXPECT_TRUE(bitwise_equal(matrix.t(), matrix.t().contiguous()));
}

}  // namespace
}  // namespace thaw::compare_test
