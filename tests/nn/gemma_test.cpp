// Gemma's norms, rotary positions and block against plain compositions.
#include "thaw/nn/gemma.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"

namespace thaw::nn::gemma_test {
namespace {

at::Tensor leaf(std::uint64_t sample, at::IntArrayRef shape, bool trains = true) {
  const RandomKey key{.seed = 9, .stream = RandomStream::test, .sample = sample};
  return (0.5 * random_normal(key, shape)).requires_grad_(trains);
}

void expect_same(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.defined(), expected.defined()) << what;
  if (!actual.defined()) return;
  const auto result = compare_tensors(actual, expected, {.absolute = 1e-6, .relative_to_max = 1e-5});
  EXPECT_TRUE(result) << what << ": " << result.message;
}

std::vector<at::Tensor> taken_gradients(const std::vector<at::Tensor>& leaves) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& tensor : leaves) {
    gradients.push_back(tensor.grad());
    tensor.mutable_grad() = at::Tensor();
  }
  return gradients;
}

at::Tensor plain_normed(const at::Tensor& x) { return x * (x.square().mean(-1, true) + 1e-6).rsqrt(); }

TEST(GemmaNorm, PlainNormMultipliesByOnePlusWeight) {
  const at::Tensor x = leaf(0, {2, 6, 12});
  const GemmaNorm norm{.weight = leaf(1, {12})};
  const GemmaNormed actual = gemma_norm(x, norm);
  EXPECT_FALSE(actual.gate.defined());
  const at::Tensor expected = plain_normed(x) * (norm.weight + 1.0);
  expect_same(actual.rows, expected, "rows");
  const std::vector<at::Tensor> leaves{x, norm.weight};
  actual.rows.square().sum().backward();
  const std::vector<at::Tensor> gradients = taken_gradients(leaves);
  expected.square().sum().backward();
  for (std::size_t i = 0; i < leaves.size(); ++i) expect_same(gradients[i], leaves[i].grad(), std::to_string(i));
}

// Two conditions of one sample: rows 0..2 are driven by the first, 3..5 by the second.
TEST(GemmaNorm, AdaptiveNormTakesScaleShiftAndGateAsThirdsForEachConditionWhateverTrains) {
  for (int choice = 1; choice < 16; ++choice) {
    const auto trains = [choice](int bit) { return (choice >> bit & 1) != 0; };
    const at::Tensor x = leaf(0, {2, 6, 12}, trains(0));
    const at::Tensor condition = leaf(1, {2, 2, 5}, trains(1));
    const GemmaNorm norm{.modulation = {.weight = leaf(2, {36, 5}, trains(2)), .bias = leaf(3, {36}, trains(3))}};
    const GemmaNormed actual = gemma_norm(x, norm, condition);

    const at::Tensor thirds = at::linear(condition, norm.modulation.weight, norm.modulation.bias);
    const at::Tensor each = thirds.repeat_interleave(3, 1);  // a row's own condition
    const at::Tensor rows = plain_normed(x) * (each.narrow(2, 0, 12) + 1.0) + each.narrow(2, 12, 12);
    expect_same(actual.rows, rows, "rows");
    expect_same(actual.gate, thirds.narrow(2, 24, 12).unsqueeze(2), "gate");

    const std::vector<at::Tensor> leaves{x, condition, norm.modulation.weight, norm.modulation.bias};
    (actual.rows.square().sum() + actual.gate.square().sum()).backward();
    const std::vector<at::Tensor> gradients = taken_gradients(leaves);
    (rows.square().sum() + thirds.narrow(2, 24, 12).square().sum()).backward();
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      expect_same(gradients[i], leaves[i].grad(), "leaf " + std::to_string(i) + " of choice " + std::to_string(choice));
    }
  }
}

TEST(GemmaNorm, IsComputedInFloat32AndRoundedAtTheEnd) {
  const at::Tensor x = leaf(0, {1, 4, 16}, false).to(at::kBFloat16);
  const GemmaNorm norm{.weight = leaf(1, {16}, false)};
  const at::Tensor expected = (plain_normed(x.to(at::kFloat)) * (norm.weight + 1.0)).to(at::kBFloat16);
  EXPECT_TRUE(bitwise_equal(gemma_norm(x, norm).rows, expected));
}

TEST(GemmaNorm, IsFoundByItsWeightOrItsDenseLayer) {
  ParameterMap parameters;
  parameters.insert("a.weight", leaf(0, {4}));
  parameters.insert("b.dense.weight", leaf(1, {12, 3}));
  parameters.insert("b.dense.bias", leaf(2, {12}));
  EXPECT_FALSE(find_gemma_norm(parameters, "a", 1e-6).adaptive());
  EXPECT_TRUE(find_gemma_norm(parameters, "b", 1e-6).adaptive());
  EXPECT_ANY_THROW(static_cast<void>(find_gemma_norm(parameters, "c", 1e-6)));
}

TEST(GemmaRotary, AnglesAreProductsWithTheReciprocalsInFloat32) {
  const at::Tensor positions = at::tensor({0, 1, 967}, at::kLong).unsqueeze(0);
  const at::Tensor table = gemma_rotary_table(positions, 256, 10000.0);
  ASSERT_EQ(table.sizes(), at::IntArrayRef({1, 3, 256}));
  for (const std::int64_t k : {0, 1, 37, 127}) {
    const float power = std::pow(10000.0F, static_cast<float>(2 * k) / 256.0F);
    const float angle = 967.0F * (1.0F / power);
    EXPECT_NEAR(table[0][2][k].item<float>(), std::cos(angle), 2e-4F) << k;  // an ulp of the angle
    EXPECT_NEAR(table[0][2][128 + k].item<float>(), std::sin(angle), 2e-4F) << k;
  }
  EXPECT_EQ(table[0][0].narrow(0, 0, 128).min().item<float>(), 1.0F);
}

TEST(GemmaRotary, RoundedFrequenciesAreThoseThatBfloat16Holds) {
  const at::Tensor positions = at::ones({1, 1}, at::kLong);  // the angle is the frequency
  const at::Tensor exact = gemma_rotary_table(positions, 8, 10000.0);
  const at::Tensor rounded = gemma_rotary_table(positions, 8, 10000.0, /*rounded=*/true);
  const at::Tensor frequency = at::tensor({1.0, 0.1, 0.01, 0.001}, at::kFloat).to(at::kBFloat16).to(at::kFloat);
  EXPECT_TRUE(compare_tensors(rounded[0][0].narrow(0, 4, 4), frequency.sin(), {.absolute = 1e-7}));
  EXPECT_FALSE(bitwise_equal(exact, rounded));
}

struct BlockCase {
  GemmaBlock block;
  at::Tensor x;
  at::Tensor attended;
  at::Tensor gate;
  at::Tensor condition;
};

BlockCase block_case(bool adaptive) {
  constexpr std::int64_t kWidth = 12;
  BlockCase c;
  const auto norm = [&](std::uint64_t seed) {
    if (!adaptive) return GemmaNorm{.weight = leaf(seed, {kWidth})};
    return GemmaNorm{.modulation = {.weight = leaf(seed, {3 * kWidth, 5}), .bias = leaf(seed + 1, {3 * kWidth})}};
  };
  c.block.input_norm = norm(10);
  c.block.post_attention_norm = norm(12);
  c.block.layers.output = {.weight = leaf(14, {kWidth, 16})};
  c.block.layers.mlp = {.gate = {.weight = leaf(15, {20, kWidth})},
                        .up = {.weight = leaf(16, {20, kWidth})},
                        .down = {.weight = leaf(17, {kWidth, 20})},
                        .activation = GateActivation::gelu_tanh};
  c.x = leaf(18, {2, 6, kWidth});
  c.attended = leaf(19, {2, 6, 16});
  if (adaptive) {
    c.condition = leaf(20, {2, 2, 5});
    c.gate = leaf(21, {2, 2, 1, kWidth});
  }
  return c;
}

// (B, K, 1, D) for each of the rows of its condition
at::Tensor for_rows(const at::Tensor& gate) { return gate.squeeze(2).repeat_interleave(3, 1); }

TEST(GemmaFinish, IsThePlainCompositionWithAndWithoutGates) {
  for (const bool adaptive : {false, true}) {
    const BlockCase c = block_case(adaptive);
    const at::Tensor actual = gemma_finish(c.block, c.x, c.attended, c.gate, c.condition);

    at::Tensor branch = at::linear(c.attended, c.block.layers.output.weight);
    if (adaptive) branch = branch * for_rows(c.gate);
    const at::Tensor residual = c.x + branch;
    const GemmaNormed normed = gemma_norm(residual, c.block.post_attention_norm, c.condition);
    const GatedMlp& mlp = c.block.layers.mlp;
    at::Tensor inner = at::gelu(at::linear(normed.rows, mlp.gate.weight), "tanh");
    inner = at::linear(inner * at::linear(normed.rows, mlp.up.weight), mlp.down.weight);
    if (adaptive) inner = inner * for_rows(normed.gate);
    const at::Tensor expected = residual + inner;
    expect_same(actual, expected, adaptive ? "gated" : "plain");

    std::vector<at::Tensor> leaves{c.x, c.attended, c.block.layers.output.weight, mlp.gate.weight, mlp.down.weight};
    if (adaptive) leaves.insert(leaves.end(), {c.gate, c.condition, c.block.post_attention_norm.modulation.weight});
    actual.square().sum().backward();
    const std::vector<at::Tensor> gradients = taken_gradients(leaves);
    expected.square().sum().backward();
    for (std::size_t i = 0; i < leaves.size(); ++i) expect_same(gradients[i], leaves[i].grad(), std::to_string(i));
  }
}

TEST(GemmaFinish, TheStreamKeepsTheWiderType) {
  BlockCase c = block_case(false);
  c.x = c.x.detach();
  c.attended = c.attended.detach().to(at::kBFloat16);
  for (at::Tensor* weight : {&c.block.layers.output.weight, &c.block.layers.mlp.gate.weight,
                             &c.block.layers.mlp.up.weight, &c.block.layers.mlp.down.weight}) {
    *weight = weight->detach().to(at::kBFloat16);
  }
  EXPECT_EQ(gemma_finish(c.block, c.x, c.attended).scalar_type(), at::kFloat);
  EXPECT_EQ(gemma_finish(c.block, c.x.to(at::kBFloat16), c.attended).scalar_type(), at::kBFloat16);
}

TEST(ZeroGradient, ReachesTheParameterAndLeavesTheValueAndItsGradientAlone) {
  const at::Tensor x = leaf(0, {2, 3});
  const at::Tensor parameter = leaf(1, {4, 5});
  const at::Tensor out = with_zero_gradient(x, parameter);
  EXPECT_TRUE(bitwise_equal(out.detach(), x.detach()));
  out.sum().backward();
  EXPECT_TRUE(bitwise_equal(x.grad(), at::ones({2, 3})));
  ASSERT_TRUE(parameter.grad().defined());
  EXPECT_EQ(parameter.grad().count_nonzero().item<std::int64_t>(), 0);
  EXPECT_FALSE(with_zero_gradient(x.detach(), parameter.detach()).requires_grad());
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(with_zero_gradient(x.detach(), parameter).requires_grad());
}

TEST(GatedMlp, GeluGateHasTheGradientsOfThePlainComposition) {
  const at::Tensor x = leaf(0, {2, 5, 12});
  const GatedMlp mlp{.gate = {.weight = leaf(1, {20, 12})},
                     .up = {.weight = leaf(2, {20, 12})},
                     .down = {.weight = leaf(3, {12, 20})},
                     .activation = GateActivation::gelu_tanh};
  const std::vector<at::Tensor> leaves{x, mlp.gate.weight, mlp.up.weight, mlp.down.weight};
  const at::Tensor actual = gated_mlp(x, mlp);
  actual.square().sum().backward();
  const std::vector<at::Tensor> gradients = taken_gradients(leaves);
  const at::Tensor gate = at::gelu(at::linear(x, mlp.gate.weight), "tanh");
  const at::Tensor expected = at::linear(gate * at::linear(x, mlp.up.weight), mlp.down.weight);
  expect_same(actual, expected, "value");
  expected.square().sum().backward();
  for (std::size_t i = 0; i < leaves.size(); ++i) expect_same(gradients[i], leaves[i].grad(), std::to_string(i));
  const at::NoGradGuard no_grad;
  expect_same(gated_mlp(x, mlp), expected, "value without a graph");
}

}  // namespace
}  // namespace thaw::nn::gemma_test
