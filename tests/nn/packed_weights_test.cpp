#include "thaw/nn/packed_weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "thaw/nn/linear.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"

namespace thaw::nn::packed_weights_test {
namespace {

at::Tensor normal(std::uint64_t sample, at::IntArrayRef shape) {
  return random_normal({.seed = 3, .stream = RandomStream::test, .sample = sample}, shape);
}

TEST(PackedWeights, GiveTheProductsOfPlainOnesForEveryNumberOfRows) {
  const at::NoGradGuard no_grad;
  const Linear layer{.weight = normal(0, {48, 40}), .bias = normal(1, {48})};
  for (const std::int64_t rows : {1, 3, 50, 200}) {
    const at::Tensor x = normal(2, {2, rows, 40});
    const at::Tensor plain = linear(x, layer);
    const PackedWeights packed;
    for (int again = 0; again < 2; ++again) {
      const auto result = compare_tensors(linear(x, layer), plain, reduction_bound(at::kFloat, 40));
      EXPECT_TRUE(result) << result.message;
    }
    const at::Tensor residual = normal(3, {2, rows, 48});
    const auto result = compare_tensors(linear_add(x, layer, residual), plain + residual, {.relative_to_max = 1e-5});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(PackedWeights, AreForgottenWithTheOutermostScopeSoThatChangedWeightsCount) {
  const at::NoGradGuard no_grad;
  const Linear layer{.weight = normal(0, {16, 8})};
  const at::Tensor x = normal(1, {2, 8});
  {
    const PackedWeights outer;
    { const PackedWeights inner; }
    static_cast<void>(linear(x, layer));
  }
  layer.weight.mul_(2.0);
  const PackedWeights packed;
  const auto result = compare_tensors(linear(x, layer), at::matmul(x, layer.weight.t()), {.relative_to_max = 1e-5});
  EXPECT_TRUE(result) << result.message;
}

}  // namespace
}  // namespace thaw::nn::packed_weights_test
