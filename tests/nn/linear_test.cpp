// Linear layers and norms on parameters of any floating dtype.
#include "thaw/nn/linear.h"

#include <ATen/autocast_mode.h>

#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"

namespace thaw::nn::linear_test {
namespace {

at::Tensor normal(std::uint64_t seed, at::IntArrayRef shape) {
  return random_normal({.seed = seed, .stream = RandomStream::test}, shape);
}

TEST(Linear, InputIsCastToTheWeightsType) {
  const Linear layer{.weight = normal(1, {3, 4}).to(at::kBFloat16), .bias = normal(2, {3}).to(at::kBFloat16)};
  const at::Tensor x = normal(3, {2, 4});
  const at::Tensor y = linear(x, layer);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(bitwise_equal(y, at::linear(x.to(at::kBFloat16), layer.weight, layer.bias)));
}

TEST(Linear, ATrainableBiasBesideAFrozenNarrowWeightGetsItsGradientInItsOwnType) {
  const Linear layer{.weight = normal(1, {3, 4}).to(at::kBFloat16), .bias = normal(2, {3}).set_requires_grad(true)};
  linear(normal(3, {2, 4}), layer).sum().backward();
  ASSERT_TRUE(layer.bias.grad().defined());
  EXPECT_TRUE(compare_tensors(layer.bias.grad(), at::full({3}, 2.0)));
}

TEST(Linear, AutocastDecidesTheTypeWhereItIsOn) {
  const Linear layer{.weight = normal(1, {3, 4})};
  const at::Tensor x = normal(3, {2, 4});
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const at::Tensor y = linear(x, layer);
  const bool seen = autocasts(x);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_TRUE(seen);
  EXPECT_FALSE(autocasts(x));
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
}

TEST(RmsNorm, EqualsItsDefinitionInDouble) {
  const at::Tensor x = normal(1, {2, 3, 8});
  const RmsNorm norm{.weight = normal(2, {8}), .eps = 1e-5};
  const at::Tensor wide = x.to(at::kDouble);
  const at::Tensor expected = norm.weight.to(at::kDouble) * wide / (wide.square().mean(-1, true) + 1e-5).sqrt();
  EXPECT_TRUE(compare_tensors(rms_norm(x, norm), expected.to(at::kFloat), {.absolute = 1e-6, .relative = 1e-6}));
}

TEST(RmsNorm, RoundsToTheInputTypeBeforeTheWeightMultiplies) {
  const at::Tensor x = normal(1, {4, 64}).to(at::kBFloat16);
  const RmsNorm norm{.weight = normal(2, {64}), .eps = 1e-5};
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normed = wide * (wide.square().mean(-1, true) + 1e-5).rsqrt();
  const at::Tensor actual = rms_norm(x, norm);
  EXPECT_EQ(actual.scalar_type(), at::kFloat) << "the promotion of bfloat16 input and float32 weight";
  EXPECT_TRUE(bitwise_equal(actual, norm.weight * normed.to(at::kBFloat16)));
  EXPECT_FALSE(compare_tensors(actual, norm.weight * normed, {.relative = 1e-4})) << "the rounding is not visible here";
}

TEST(LayerNorm, TakesInputAndBiasOfAnotherType) {
  const LayerNorm norm{.weight = normal(1, {8}), .bias = normal(2, {8}).to(at::kBFloat16), .eps = 1e-6};
  const at::Tensor x = normal(3, {2, 8}).to(at::kBFloat16);
  const at::Tensor expected = at::layer_norm(x.to(at::kFloat), {8}, norm.weight, norm.bias.to(at::kFloat), 1e-6);
  EXPECT_TRUE(bitwise_equal(layer_norm(x, norm), expected));
}

TEST(GatedMlp, IsDownOfSiluOfGateTimesUp) {
  const GatedMlp mlp{.gate = {.weight = normal(1, {6, 4})},
                     .up = {.weight = normal(2, {6, 4})},
                     .down = {.weight = normal(3, {4, 6})}};
  const at::Tensor x = normal(4, {5, 4}).to(at::kDouble);
  const auto product = [](const at::Tensor& a, const Linear& layer) {
    return a.matmul(layer.weight.t().to(at::kDouble));
  };
  const at::Tensor gate = product(x, mlp.gate);
  const at::Tensor expected = product(gate * gate.sigmoid() * product(x, mlp.up), mlp.down);
  EXPECT_TRUE(compare_tensors(gated_mlp(x.to(at::kFloat), mlp), expected.to(at::kFloat), {.relative_to_max = 1e-5}));
}

}  // namespace
}  // namespace thaw::nn::linear_test
