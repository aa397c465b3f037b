// Blocks' parts that keep little for backward: their gradients are those of the plain composition.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include "thaw/nn/linear.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"

namespace thaw::nn::gated_mlp_test {
namespace {

at::Tensor leaf(std::uint64_t sample, at::IntArrayRef shape, bool trains = true) {
  const RandomKey key{.seed = 5, .stream = RandomStream::test, .sample = sample};
  return (0.5 * random_normal(key, shape)).requires_grad_(trains);
}

void expect_same(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.defined(), expected.defined()) << what;
  if (!actual.defined()) return;
  const auto result = compare_tensors(actual, expected, {.absolute = 1e-6, .relative_to_max = 1e-5});
  EXPECT_TRUE(result) << what << ": " << result.message;
}

TEST(GatedMlp, GradientsAreThoseOfThePlainCompositionForEveryChoiceOfWhatTrains) {
  for (int choice = 1; choice < 16; ++choice) {
    const auto trains = [choice](int bit) { return (choice >> bit & 1) != 0; };
    const at::Tensor x = leaf(0, {2, 5, 12}, trains(0));
    const GatedMlp mlp{.gate = {.weight = leaf(1, {20, 12}, trains(1))},
                       .up = {.weight = leaf(2, {20, 12}, trains(2))},
                       .down = {.weight = leaf(3, {12, 20}, trains(3))}};
    const std::vector<at::Tensor> leaves{x, mlp.gate.weight, mlp.up.weight, mlp.down.weight};
    gated_mlp(x, mlp).square().sum().backward();
    std::vector<at::Tensor> actual;
    for (const at::Tensor& tensor : leaves) {
      actual.push_back(tensor.grad());
      tensor.mutable_grad() = at::Tensor();
    }
    const at::Tensor gate = at::silu(at::linear(x, mlp.gate.weight));
    at::linear(gate * at::linear(x, mlp.up.weight), mlp.down.weight).square().sum().backward();
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      expect_same(actual[i], leaves[i].grad(), "leaf " + std::to_string(i) + " of choice " + std::to_string(choice));
    }
  }
}

TEST(RmsNorm, GradientsAreThoseOfThePlainComposition) {
  for (const bool weight_trains : {false, true}) {
    const at::Tensor x = leaf(0, {2, 5, 12});
    const RmsNorm norm{.weight = leaf(1, {12}, weight_trains), .eps = 1e-5};
    rms_norm(x, norm).square().sum().backward();
    const at::Tensor of_x = x.grad();
    const at::Tensor of_weight = norm.weight.grad();
    x.mutable_grad() = at::Tensor();
    norm.weight.mutable_grad() = at::Tensor();
    (norm.weight * (x * (x.square().mean(-1, true) + 1e-5).rsqrt())).square().sum().backward();
    expect_same(of_x, x.grad(), "x");
    expect_same(of_weight, norm.weight.grad(), "weight");
  }
}

TEST(Product, GradientsOfWeightBiasAndInputAreThoseOfThePlainProduct) {
  for (const bool has_bias : {false, true}) {
    const at::Tensor x = leaf(0, {2, 5, 12});
    const Linear layer{.weight = leaf(1, {7, 12}), .bias = has_bias ? leaf(2, {7}) : at::Tensor()};
    linear(x, layer).square().sum().backward();
    const at::Tensor of_x = x.grad();
    const at::Tensor of_weight = layer.weight.grad();
    const at::Tensor of_bias = has_bias ? layer.bias.grad() : at::Tensor();
    x.mutable_grad() = at::Tensor();
    layer.weight.mutable_grad() = at::Tensor();
    if (has_bias) layer.bias.mutable_grad() = at::Tensor();
    at::linear(x, layer.weight, layer.bias).square().sum().backward();
    expect_same(of_x, x.grad(), "x");
    expect_same(of_weight, layer.weight.grad(), "weight");
    if (has_bias) expect_same(of_bias, layer.bias.grad(), "bias");
  }
}

}  // namespace
}  // namespace thaw::nn::gated_mlp_test
