#include "thaw/policy/adapters.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>
#include <torch/nn/module.h>

#include <cmath>

#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"

namespace thaw::adapters_test {
namespace {

using test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::int64_t kIn = 6;
constexpr std::int64_t kOut = 8;
constexpr double kRows = 3.0;

/// One block with a projection, a norm and an embedding, and a layer that no stage uses.
ModelLayout model() {
  ModelLayout layout{.type = "toy", .stacks = {{.name = "layers", .prefix = "layers", .blocks = 1}}};
  layout.parameters = {{.name = "embed.weight", .shape = {9, kIn}, .groups = {"embeddings"}},
                       {.name = "layers.0.proj.weight", .shape = {kOut, kIn}, .stack = "layers", .block = 0},
                       {.name = "layers.0.proj.bias", .shape = {kOut}, .stack = "layers", .block = 0},
                       {.name = "layers.0.norm.weight", .shape = {kOut}, .stack = "layers", .block = 0},
                       {.name = "unused.weight", .shape = {4, 4}}};
  StageInfo block{.name = "layers.0",
                  .parameters = {"embed.weight", "layers.0.proj.weight", "layers.0.proj.bias", "layers.0.norm.weight"},
                  .flops = 100.0};
  block.bytes.saved_for = {{{.fixed = kRows * kIn * sizeof(float)}, {"layers.0.proj.weight"}}};
  layout.line = {block};
  return layout;
}

Adapter adapter(std::int64_t rank = 2, bool dora = false) {
  return {.linear = "layers.0.proj", .rank = rank, .alpha = 3.0, .weight_decomposed = dora};
}

ModelLayout adapted(const Adapter& one) { return with_adapters(model(), std::span(&one, 1)); }

std::vector<std::string> names(const ModelLayout& layout) {
  std::vector<std::string> result;
  for (const ParameterInfo& info : layout.parameters) result.push_back(info.name);
  return result;
}

struct Weights : torch::nn::Module {
  Weights() : torch::nn::Module("weights") {}
};

at::Tensor normal(std::uint64_t seed, at::IntArrayRef shape) {
  return random_normal({.seed = seed, .stream = RandomStream::test}, shape);
}

TEST(Adapters, OnlyMatricesThatAStageMultipliesWithCanHaveOne) {
  EXPECT_THAT(adaptable_linears(model()), ElementsAre("layers.0.proj"));
}

TEST(Adapters, TheirParametersStandBehindThoseOfTheLayerAndBelongToItsBlock) {
  const ModelLayout layout = adapted(adapter(2, true));
  EXPECT_THAT(names(layout), ElementsAre("embed.weight", "layers.0.proj.weight", "layers.0.proj.bias",
                                         "layers.0.proj.lora_magnitude_vector", "layers.0.proj.lora_A.weight",
                                         "layers.0.proj.lora_B.weight", "layers.0.norm.weight", "unused.weight"));
  const ParameterInfo& a = layout.parameter("layers.0.proj.lora_A.weight");
  EXPECT_THAT(a.shape, ElementsAre(2, kIn));
  EXPECT_EQ(a.stack, "layers");
  EXPECT_EQ(a.block, 0);
  EXPECT_THAT(a.groups, ElementsAre("adapters"));
  EXPECT_THAT(layout.parameter("layers.0.proj.lora_B.weight").shape, ElementsAre(kOut, 2));
  EXPECT_THAT(layout.parameter("layers.0.proj.lora_magnitude_vector").shape, ElementsAre(kOut));
  EXPECT_THAT(layout.adapters, ElementsAre(adapter(2, true)));
}

TEST(Adapters, CostWhatTheirProductsCost) {
  const StageInfo stage = adapted(adapter()).line.at(0);
  EXPECT_DOUBLE_EQ(stage.flops, 100.0 + 2.0 * kRows * 2.0 * (kIn + kOut));
  ASSERT_EQ(stage.bytes.saved_for.size(), 2U);
  // The layer's input is kept once, for the weight or for A.
  EXPECT_THAT(stage.bytes.saved_for[0].parameters, ElementsAre("layers.0.proj.weight", "layers.0.proj.lora_A.weight"));
  EXPECT_DOUBLE_EQ(stage.bytes.saved_for[1].bytes.at(1), kRows * 2.0 * sizeof(float));
  EXPECT_THAT(stage.bytes.saved_for[1].parameters, ElementsAre("layers.0.proj.lora_B.weight"));
}

TEST(Adapters, ThatCannotBeAreRefusedWithWhatIsWrong) {
  const auto refusal = [](const Adapter& one) {
    return message_of<UsageError>([&] { static_cast<void>(adapted(one)); });
  };
  EXPECT_THAT(refusal({.linear = "layers.0.porj"}), HasSubstr("Did you mean 'layers.0.proj'?"));
  EXPECT_THAT(refusal({.linear = "embed"}), HasSubstr("expected a linear layer that the forward pass uses"));
  EXPECT_THAT(refusal(adapter(7)), HasSubstr("rank: expected 1 to 6, the smaller side of the weight, found 7"));
  EXPECT_THAT(refusal(adapter(0)), HasSubstr("found 0"));
  EXPECT_THAT(refusal({.linear = "layers.0.proj", .rank = 2, .alpha = -1.0}),
              HasSubstr("alpha: expected a positive number, found -1"));
  const std::vector<Adapter> twice{adapter(), adapter()};
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(with_adapters(model(), twice)); }),
              HasSubstr("expected a layer without one, found one already"));
}

TEST(Adapters, ScaleIsAlphaOverRankOrOverItsRoot) {
  EXPECT_DOUBLE_EQ(adapter(4).scale(), 0.75);
  Adapter stabilised = adapter(4);
  stabilised.rank_stabilised = true;
  EXPECT_DOUBLE_EQ(stabilised.scale(), 1.5);
}

TEST(Adapters, BeginWithoutEffectAndShareTheBasesTensors) {
  Weights module;
  const auto proj = module.register_module("proj", std::make_shared<Weights>());
  const at::Tensor weight = proj->register_parameter("weight", normal(1, {kOut, kIn}));
  ModelLayout layout{.parameters = {{.name = "proj.weight", .shape = {kOut, kIn}}}};
  layout.line = {{.name = "all", .parameters = {"proj.weight"}}};
  const Adapter dora{.linear = "proj", .rank = 2, .weight_decomposed = true};
  const std::vector<NamedTensor> weights = adapted_weights(with_adapters(layout, std::span(&dora, 1)), module, 5);

  std::map<std::string, at::Tensor> tensors;
  for (const NamedTensor& one : weights) tensors[one.name] = one.tensor;
  EXPECT_TRUE(tensors.at("proj.weight").is_same(weight));
  const at::Tensor& a = tensors.at("proj.lora_A.weight");
  EXPECT_LT(a.abs().max().item<double>(), 1.0 / std::sqrt(6.0));
  EXPECT_GT(a.std().item<double>(), 0.1);
  EXPECT_EQ(tensors.at("proj.lora_B.weight").abs().max().item<double>(), 0.0);
  EXPECT_TRUE(compare_tensors(merged_weight(weight, dora, tensors), weight.detach(), {.relative_to_max = 1e-6}));

  const std::vector<NamedTensor> again = adapted_weights(with_adapters(layout, std::span(&dora, 1)), module, 5);
  const std::vector<NamedTensor> other = adapted_weights(with_adapters(layout, std::span(&dora, 1)), module, 6);
  EXPECT_TRUE(bitwise_equal(again[2].tensor, a));
  EXPECT_FALSE(bitwise_equal(other[2].tensor, a));
}

TEST(Adapters, MergeAddsTheScaledProductInTheDtypeOfTheWeight) {
  const Adapter one{.linear = "proj", .rank = 2, .alpha = 3.0};
  const at::Tensor a = normal(2, {2, kIn});
  const at::Tensor b = normal(3, {kOut, 2});
  const std::map<std::string, at::Tensor> tensors{{"proj.lora_A.weight", a}, {"proj.lora_B.weight", b}};
  const at::Tensor weight = normal(1, {kOut, kIn});
  const at::Tensor expected = weight + 1.5 * at::mm(b, a);
  EXPECT_TRUE(compare_tensors(merged_weight(weight, one, tensors), expected, {.relative_to_max = 1e-6}));
  const at::Tensor half = merged_weight(weight.to(at::kBFloat16), one, tensors);
  EXPECT_TRUE(bitwise_equal(half, (weight.to(at::kBFloat16).to(at::kFloat) + at::mm(b, a) * 1.5).to(at::kBFloat16)));
}

TEST(Adapters, MergeRefusesTensorsThatAreMissingOrMisshapen) {
  const Adapter one{.linear = "proj", .rank = 2};
  const at::Tensor weight = normal(1, {kOut, kIn});
  std::map<std::string, at::Tensor> tensors{{"proj.lora_A.weight", normal(2, {2, kIn})}};
  const auto refusal = [&] {
    return message_of<MismatchError>([&] { static_cast<void>(merged_weight(weight, one, tensors)); });
  };
  EXPECT_THAT(refusal(), HasSubstr("proj.lora_B.weight: expected a tensor of shape [8, 2], found none"));
  tensors["proj.lora_B.weight"] = normal(3, {kOut, 3});
  EXPECT_THAT(refusal(), HasSubstr("found [8, 3]"));
}

TEST(Adapters, AreKnownByTheirNames) {
  EXPECT_TRUE(is_adapter_parameter("a.q_proj.lora_A.weight"));
  EXPECT_TRUE(is_adapter_parameter("a.q_proj.lora_magnitude_vector"));
  EXPECT_FALSE(is_adapter_parameter("a.q_proj.weight"));
  EXPECT_THAT(model().adapters, IsEmpty());
}

}  // namespace
}  // namespace thaw::adapters_test
