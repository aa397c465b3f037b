// Rotary positions and grouped-query attention against plain restatements in double.
#include "thaw/nn/attention.h"

#include <ATen/autocast_mode.h>
#include <torch/autograd.h>

#include <limits>

#include "thaw/nn/blocks.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"

namespace thaw::nn::attention_test {
namespace {

at::Tensor normal(std::uint64_t seed, at::IntArrayRef shape) {
  return random_normal({.seed = seed, .stream = RandomStream::test}, shape);
}

// One query head at a time, its key/value head repeated, masked scores at -inf.
at::Tensor plain_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const at::Tensor& mask) {
  std::vector<at::Tensor> heads;
  const std::int64_t group = query.size(1) / key.size(1);
  for (std::int64_t h = 0; h < query.size(1); ++h) {
    const at::Tensor q = query.select(1, h).to(at::kDouble);
    const at::Tensor k = key.select(1, h / group).to(at::kDouble);
    const at::Tensor v = value.select(1, h / group).to(at::kDouble);
    const at::Tensor scores = q.matmul(k.transpose(1, 2)) / std::sqrt(static_cast<double>(query.size(3)));
    heads.push_back(scores.masked_fill(mask.logical_not(), -INFINITY).softmax(-1).matmul(v));
  }
  return at::stack(heads, 2).flatten(2, 3).to(at::kFloat);
}

struct Inputs {
  at::Tensor query = normal(1, {2, 6, 5, 8});
  at::Tensor key = normal(2, {2, 2, 7, 8});
  at::Tensor value = normal(3, {2, 2, 7, 8});
  at::Tensor mask = normal(4, {2, 5, 7}) > -0.5;
};

TEST(Attention, EveryQueryHeadReadsTheKeysAndValuesOfItsGroup) {
  Inputs in;
  in.mask.select(2, 0).fill_(true);
  EXPECT_TRUE(compare_tensors(attention(in.query, KeyValue{in.key, in.value}, in.mask),
                              plain_attention(in.query, in.key, in.value, in.mask), {.relative_to_max = 1e-6}));
}

TEST(Attention, AMaskOfOneRowHoldsForAllQueries) {
  Inputs in;
  const at::Tensor row = in.mask.narrow(1, 0, 1);
  EXPECT_TRUE(bitwise_equal(attention(in.query, KeyValue{in.key, in.value}, row),
                            attention(in.query, KeyValue{in.key, in.value}, row.expand({2, 5, 7}))));
}

TEST(Attention, ARowWithoutAnyValidKeyIsThePlainAverageOfTheValues) {
  const Inputs in;
  const at::Tensor out = attention(in.query, KeyValue{in.key, in.value}, at::zeros({2, 1, 7}, at::kBool));
  const at::Tensor average = in.value.mean(2).repeat_interleave(3, 1).flatten(1, 2).unsqueeze(1).expand({2, 5, 48});
  EXPECT_TRUE(compare_tensors(out, average, {.absolute = 1e-6}));
}

TEST(Attention, MaskedKeysAndValuesHaveNoInfluenceAndNoGradient) {
  Inputs in;
  in.mask.fill_(true);
  in.mask.narrow(2, 4, 3).fill_(false);
  in.key.set_requires_grad(true);
  in.value.set_requires_grad(true);
  const at::Tensor out = attention(in.query, KeyValue{in.key, in.value}, in.mask);
  out.square().sum().backward();
  EXPECT_EQ(in.key.grad().narrow(2, 4, 3).abs().max().item<float>(), 0.0F);
  EXPECT_EQ(in.value.grad().narrow(2, 4, 3).abs().max().item<float>(), 0.0F);
  EXPECT_GT(in.key.grad().abs().max().item<float>(), 0.0F);
  const at::Tensor shorter =
      attention(in.query, KeyValue{in.key.narrow(2, 0, 4), in.value.narrow(2, 0, 4)}, in.mask.narrow(2, 0, 4));
  EXPECT_TRUE(compare_tensors(out, shorter, {.absolute = 1e-6}));
}

TEST(Attention, ResultHasTheTypeOfTheValues) {
  const Inputs in;
  EXPECT_EQ(attention(in.query, KeyValue{in.key, in.value.to(at::kBFloat16)}, in.mask).scalar_type(), at::kBFloat16);
  EXPECT_EQ(attention(in.query.to(at::kBFloat16), KeyValue{in.key, in.value}, in.mask).scalar_type(), at::kFloat);
}

/// The same from plain operators, which autograd differentiates.
at::Tensor composed_attention(const at::Tensor& query, const KeyValue& seen, const at::Tensor& mask) {
  const std::int64_t group = query.size(1) / seen.key.size(1);
  const at::Tensor key = seen.key.repeat_interleave(group, 1);
  const at::Tensor value = seen.value.repeat_interleave(group, 1);
  const at::Tensor product = at::matmul(query, key.transpose(-1, -2)) / std::sqrt(static_cast<double>(query.size(3)));
  const at::Tensor scores = product.to(c10::promoteTypes(product.scalar_type(), at::kFloat));
  const at::Tensor hidden = mask.logical_not().unsqueeze(1);
  const double lowest = std::numeric_limits<float>::lowest();
  return merge_heads(at::matmul(scores.masked_fill(hidden, lowest).softmax(-1), value));
}

std::vector<at::Tensor> gradients(const at::Tensor& out, const std::vector<at::Tensor>& of) {
  const at::Tensor weights = normal(9, out.sizes()).to(out.scalar_type());
  return torch::autograd::grad({(out * weights).sum()}, of);
}

TEST(Attention, GradientsEqualThoseOfPlainOperators) {
  Inputs in;
  in.mask.select(1, 2).fill_(false);  // a row that sees nothing
  const std::vector<at::Tensor> leaves{in.query.to(at::kDouble).requires_grad_(),
                                       in.key.to(at::kDouble).requires_grad_(),
                                       in.value.to(at::kDouble).requires_grad_()};
  const KeyValue seen{leaves[1], leaves[2]};
  const auto actual = gradients(attention(leaves[0], seen, in.mask), leaves);
  const auto expected = gradients(composed_attention(leaves[0], seen, in.mask), leaves);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_TRUE(compare_tensors(actual[i], expected[i], {.relative_to_max = 1e-12})) << i;
  }
}

TEST(Attention, PartsEqualTheirConcatenationBitByBit) {
  const Inputs in;
  const at::Tensor query = in.query.clone().requires_grad_();
  const at::Tensor key = in.key.clone().requires_grad_();
  const at::Tensor value = in.value.clone().requires_grad_();
  const auto part = [&](std::int64_t begin, std::int64_t length) {
    return KeyValue{key.narrow(2, begin, length), value.narrow(2, begin, length)};
  };
  const at::Tensor whole = attention(query, KeyValue{key, value}, in.mask);
  const at::Tensor pieces = attention(query, {part(0, 4), part(4, 1), part(5, 2)}, in.mask);
  EXPECT_TRUE(bitwise_equal(pieces, whole));
  const auto of_whole = gradients(whole, {query, key, value});
  const auto of_pieces = gradients(pieces, {query, key, value});
  for (std::size_t i = 0; i < of_whole.size(); ++i) EXPECT_TRUE(bitwise_equal(of_pieces[i], of_whole[i])) << i;
}

TEST(Attention, AGraphChangesNoValue) {
  const Inputs in;
  const at::Tensor plain = attention(in.query, KeyValue{in.key, in.value}, in.mask);
  const at::Tensor query = in.query.clone().requires_grad_();
  EXPECT_TRUE(bitwise_equal(attention(query, KeyValue{in.key, in.value}, in.mask).detach(), plain));
}

TEST(Attention, OnlyWhatNeedsAGradientGetsOne) {
  const Inputs in;
  const at::Tensor own_key = normal(5, {2, 2, 1, 8}).requires_grad_();
  const at::Tensor own_value = normal(6, {2, 2, 1, 8}).requires_grad_();
  const at::Tensor mask = at::ones({2, 5, 8}, at::kBool);
  const at::Tensor out = attention(in.query, {{in.key, in.value}, {own_key, own_value}}, mask);
  out.sum().backward();
  EXPECT_FALSE(in.query.grad().defined());
  EXPECT_FALSE(in.key.grad().defined());
  EXPECT_GT(own_key.grad().abs().max().item<float>(), 0.0F);
  EXPECT_GT(own_value.grad().abs().max().item<float>(), 0.0F);
}

TEST(Attention, BackwardCastsAsAutocastDidInForward) {
  const Inputs in;
  const std::vector<at::Tensor> leaves{in.query.clone().requires_grad_(), in.key.clone().requires_grad_(),
                                       in.value.clone().requires_grad_()};
  const KeyValue seen{leaves[1], leaves[2]};
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor out = attention(leaves[0], seen, in.mask);
  const at::Tensor expected = composed_attention(leaves[0], seen, in.mask);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(
      compare_tensors(out.detach().to(at::kFloat), expected.detach().to(at::kFloat), {.relative_to_max = 1e-2}));
  const auto of_out = gradients(out, leaves);
  const auto of_expected = gradients(expected, leaves);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_EQ(of_out[i].scalar_type(), at::kFloat);
    // A few roundings to 8 bits on either side.
    EXPECT_TRUE(compare_tensors(of_out[i], of_expected[i], {.relative_to_max = 3e-2})) << i;
  }
}

TEST(Rotary, TurnsTheHalvesOfAHeadByPositionOverWavelength) {
  const at::Tensor x = normal(1, {1, 2, 3, 4});
  const at::Tensor positions = at::tensor({-1, 0, 7}, at::kLong).unsqueeze(0);
  const at::Tensor actual = apply_rotary(x, rotary_table(positions, 4, 10000.0));
  for (std::int64_t l = 0; l < 3; ++l) {
    for (std::int64_t k = 0; k < 2; ++k) {
      const double angle = positions[0][l].item<double>() / std::pow(10000.0, static_cast<double>(k) / 2.0);
      const double first = x[0][1][l][k].item<double>();
      const double second = x[0][1][l][k + 2].item<double>();
      EXPECT_NEAR(actual[0][1][l][k].item<double>(), first * std::cos(angle) - second * std::sin(angle), 1e-6);
      EXPECT_NEAR(actual[0][1][l][k + 2].item<double>(), second * std::cos(angle) + first * std::sin(angle), 1e-6);
    }
  }
}

TEST(Rotary, GradientIsTheRotationBack) {
  const at::Tensor x = normal(1, {2, 2, 3, 8}).set_requires_grad(true);
  const at::Tensor table = rotary_table(at::arange(6, at::kLong).view({2, 3}), 8, 10000.0);
  const at::Tensor weights = normal(2, {2, 2, 3, 8});
  (apply_rotary(x, table) * weights).sum().backward();
  const at::Tensor cosine = table.unsqueeze(1).narrow(-1, 0, 4);
  const at::Tensor sine = table.unsqueeze(1).narrow(-1, 4, 4);
  const at::Tensor g1 = weights.narrow(-1, 0, 4);
  const at::Tensor g2 = weights.narrow(-1, 4, 4);
  const at::Tensor expected = at::cat({g1 * cosine + g2 * sine, g2 * cosine - g1 * sine}, -1);
  EXPECT_TRUE(compare_tensors(x.grad(), expected, {.absolute = 1e-6}));
}

TEST(Rotary, NarrowInputIsTurnedInFloat32AndRoundedOnce) {
  const at::Tensor x = normal(1, {1, 2, 3, 8}).to(at::kBFloat16);
  const at::Tensor table = rotary_table(at::arange(3, at::kLong).unsqueeze(0), 8, 10000.0);
  EXPECT_TRUE(bitwise_equal(apply_rotary(x, table), apply_rotary(x.to(at::kFloat), table).to(at::kBFloat16)));
}

TEST(Blocks, ConcatenationTakesTheWiderType) {
  const KeyValue narrow{.key = normal(1, {1, 2, 3, 4}).to(at::kBFloat16), .value = normal(2, {1, 2, 3, 4})};
  const KeyValue wide{.key = normal(3, {1, 2, 1, 4}), .value = normal(4, {1, 2, 1, 4})};
  const KeyValue both = concatenate({narrow, wide});
  EXPECT_EQ(both.key.scalar_type(), at::kFloat);
  EXPECT_EQ(both.key.sizes(), at::IntArrayRef({1, 2, 4, 4}));
}

TEST(Blocks, TheResidualStreamTakesTheTypeOfTheOutputProjection) {
  const auto narrow = [](std::uint64_t seed, at::IntArrayRef shape) { return normal(seed, shape).to(at::kBFloat16); };
  const DecoderBlock block{.output = {.weight = narrow(1, {4, 8})},
                           .post_attention_norm = {.weight = narrow(2, {4})},
                           .mlp = {.gate = {.weight = narrow(3, {6, 4})},
                                   .up = {.weight = narrow(4, {6, 4})},
                                   .down = {.weight = narrow(5, {4, 6})}}};
  EXPECT_EQ(block_finish(block, normal(6, {1, 2, 4}), normal(7, {1, 2, 8})).scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace thaw::nn::attention_test
