// LoRA, rsLoRA and DoRA on one layer against PEFT (tests/golden/lora).
#include <ATen/ATen.h>

#include <filesystem>

#include "support/paths.h"
#include "thaw/nn/linear.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::nn::low_rank_test {
namespace {

namespace fs = std::filesystem;

fs::path folder() { return fs::path(thaw::test::source_dir()) / "tests/golden/lora/linear"; }

/// A recorded layer with leaves to take gradients of.
struct Recorded {
  explicit Recorded(const std::string& name) : tensors(read_safetensors(folder() / (name + ".safetensors"))) {
    layer.weight = tensors.at("weight");
    if (tensors.contains("bias")) layer.bias = tensors.at("bias");
    layer.low_rank = {.a = leaf("lora_A"), .b = leaf("lora_B"), .scale = tensors.at("scale").item<double>()};
    if (tensors.contains("magnitude")) layer.low_rank.magnitude = leaf("magnitude");
    x = leaf("x");
  }

  at::Tensor leaf(const std::string& name) { return tensors.at(name).clone().requires_grad_(true); }

  [[nodiscard]] bool is_short() const { return layer.weight.scalar_type() == at::kBFloat16; }
  [[nodiscard]] Bound bound() const { return {.relative_to_max = is_short() ? 8e-3 : 2e-6}; }
  [[nodiscard]] Bound gradient_bound() const { return {.relative_to_max = is_short() ? 1e-2 : 2e-6}; }

  std::map<std::string, at::Tensor> tensors;
  Linear layer;
  at::Tensor x;
};

#define EXPECT_CLOSE(actual, expected, bound)                                                    \
  do {                                                                                           \
    const Comparison comparison = compare_tensors((actual), (expected), (bound));                \
    EXPECT_TRUE(comparison.equal) << GetParam() << ": " << #actual << " " << comparison.message; \
  } while (false)

class LowRankGolden : public testing::TestWithParam<std::string> {};

TEST_P(LowRankGolden, OutputAndGradientsEqualPeft) {
  Recorded recorded(GetParam());
  const at::Tensor output = linear(recorded.x, recorded.layer);
  EXPECT_CLOSE(output.detach(), recorded.tensors.at("output"), recorded.bound());
  (output.to(at::kFloat) * recorded.tensors.at("target")).mean().backward();
  EXPECT_CLOSE(recorded.x.grad(), recorded.tensors.at("grad.x"), recorded.bound());
  const LowRank& low_rank = recorded.layer.low_rank;
  EXPECT_CLOSE(low_rank.a.grad(), recorded.tensors.at("grad.lora_A"), recorded.gradient_bound());
  EXPECT_CLOSE(low_rank.b.grad(), recorded.tensors.at("grad.lora_B"), recorded.gradient_bound());
  if (!low_rank.magnitude.defined()) return;
  EXPECT_CLOSE(low_rank.magnitude.grad(), recorded.tensors.at("grad.magnitude"), recorded.gradient_bound());
}

TEST_P(LowRankGolden, WithoutGradTheOutputIsTheSame) {
  const Recorded recorded(GetParam());
  const at::NoGradGuard no_grad;
  EXPECT_CLOSE(linear(recorded.x, recorded.layer), recorded.tensors.at("output"), recorded.bound());
}

INSTANTIATE_TEST_SUITE_P(Cases, LowRankGolden,
                         testing::Values("lora", "lora_bias", "lora_bf16", "rslora", "rslora_bias", "rslora_bf16",
                                         "dora", "dora_bias", "dora_bf16"),
                         [](const auto& name) { return name.param; });

TEST(LowRank, WhatFollowsTheProductSeesTheUpdate) {
  Recorded recorded("lora_bias");
  const at::NoGradGuard no_grad;
  const at::Tensor plain = linear(recorded.x, recorded.layer);
  const Bound bound{.relative_to_max = 1e-6};
  EXPECT_TRUE(compare_tensors(linear_gelu(recorded.x, recorded.layer), at::gelu(plain, "tanh"), bound));
  EXPECT_TRUE(compare_tensors(linear_silu(recorded.x, recorded.layer), at::silu(plain), bound));
  const at::Tensor residual = at::ones_like(plain);
  EXPECT_TRUE(compare_tensors(linear_add(recorded.x, recorded.layer, residual), plain + residual, bound));
}

TEST(LowRank, IsFoundByItsNamesWithItsScale) {
  ParameterMap parameters;
  parameters.insert("a.weight", at::ones({3, 2}));
  EXPECT_FALSE(find_linear(parameters, "a").low_rank.defined());
  parameters.insert("a.lora_A.weight", at::ones({1, 2}));
  parameters.insert("a.lora_B.weight", at::ones({3, 1}));
  parameters.insert(low_rank_scale_name("a"), at::scalar_tensor(0.25, at::kDouble));
  const Linear layer = find_linear(parameters, "a");
  ASSERT_TRUE(layer.low_rank.defined());
  EXPECT_EQ(layer.low_rank.scale, 0.25);
  EXPECT_TRUE(compare_tensors(linear(at::ones({1, 2}), layer), at::full({1, 3}, 2.5), {}));
}

GatedMlp mlp_of(const std::map<std::string, at::Tensor>& tensors, GateActivation activation) {
  ParameterMap parameters;
  for (const auto& [name, tensor] : tensors) parameters.insert(name, tensor);
  GatedMlp mlp = find_gated_mlp(parameters, "mlp");
  mlp.activation = activation;
  return mlp;
}

/// The MLP as the formula says, through at::linear alone.
at::Tensor by_formula(const at::Tensor& x, const GatedMlp& mlp) {
  const auto product = [](const at::Tensor& in, const Linear& layer) {
    const at::Tensor plain = at::linear(in, layer.weight);
    if (!layer.low_rank.defined()) return plain;
    return plain + at::linear(at::linear(in, layer.low_rank.a), layer.low_rank.b) * layer.low_rank.scale;
  };
  const at::Tensor gate = product(x, mlp.gate);
  const at::Tensor active = mlp.activation == GateActivation::silu ? at::silu(gate) : at::gelu(gate, "tanh");
  return product(active * product(x, mlp.up), mlp.down);
}

TEST(LowRank, AGatedMlpHasTheGradientsOfItsFormula) {
  for (const GateActivation activation : {GateActivation::silu, GateActivation::gelu_tanh}) {
    auto draw = [seed = 0](at::IntArrayRef shape) mutable {
      at::manual_seed(++seed);
      return at::randn(shape);
    };
    std::map<std::string, at::Tensor> tensors;
    for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
      const bool down = std::string(name) == "down_proj";
      const std::string prefix = std::string("mlp.") + name;
      tensors[prefix + ".weight"] = down ? draw({4, 7}) : draw({7, 4});
      tensors[prefix + ".lora_A.weight"] = draw({2, down ? 7 : 4}).requires_grad_(true);
      tensors[prefix + ".lora_B.weight"] = draw({down ? 4 : 7, 2}).requires_grad_(true);
      tensors[low_rank_scale_name(prefix)] = at::scalar_tensor(0.5, at::kDouble);
    }
    const GatedMlp mlp = mlp_of(tensors, activation);
    const at::Tensor x = draw({5, 4}).requires_grad_(true);
    std::vector<at::Tensor> leaves{x};
    for (const auto& entry : tensors) {
      if (entry.second.requires_grad()) leaves.push_back(entry.second);
    }
    const auto gradients = [&](const at::Tensor& output) {
      output.square().sum().backward();
      std::vector<at::Tensor> result{output.detach()};
      for (at::Tensor& leaf : leaves) {
        result.push_back(leaf.grad().clone());
        leaf.mutable_grad().reset();
      }
      return result;
    };
    const std::vector<at::Tensor> expected = gradients(by_formula(x, mlp));
    const std::vector<at::Tensor> actual = gradients(gated_mlp(x, mlp));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Comparison comparison = compare_tensors(actual[i], expected[i], {.relative_to_max = 1e-5});
      EXPECT_TRUE(comparison.equal) << i << ": " << comparison.message;
    }
  }
}

}  // namespace
}  // namespace thaw::nn::low_rank_test
