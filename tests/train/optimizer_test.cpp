#include "thaw/train/optimizer.h"

#include <torch/optim.h>

#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"
#include "toy.h"

namespace thaw::optimizer_test {
namespace {

at::Tensor draw(std::uint64_t sample, at::IntArrayRef shape) {
  return random_normal({.seed = 5, .stream = RandomStream::test, .sample = sample}, shape);
}

TrainableParameter parameter(const std::string& name, std::uint64_t sample, at::IntArrayRef shape) {
  return {.name = name, .tensor = draw(sample, shape).requires_grad_()};
}

const at::Tensor& finite() {
  static const at::Tensor kZero = at::zeros({});
  return kZero;
}

constexpr double kRate = 0.01;
constexpr double kBeta1 = 0.9;
constexpr double kBeta2 = 0.95;
constexpr double kEps = 1e-8;
constexpr double kDecay = 0.1;
const OptimizerOptions kOptions{
    .learning_rate = kRate, .beta1 = kBeta1, .beta2 = kBeta2, .eps = kEps, .weight_decay = kDecay};

/// The paper's update, in double, one element at a time.
struct NaiveAdamW {
  explicit NaiveAdamW(at::Tensor start)
      : p(start.detach().to(at::kDouble)), m(at::zeros_like(p)), v(at::zeros_like(p)) {}
  void step(const at::Tensor& gradient, double rate) {
    ++t;
    const at::Tensor g = gradient.to(at::kDouble);
    for (std::int64_t i = 0; i < p.numel(); ++i) {
      double& pi = p.mutable_data_ptr<double>()[i];
      double& mi = m.mutable_data_ptr<double>()[i];
      double& vi = v.mutable_data_ptr<double>()[i];
      const double gi = g.const_data_ptr<double>()[i];
      pi -= rate * kDecay * pi;
      mi = kBeta1 * mi + (1 - kBeta1) * gi;
      vi = kBeta2 * vi + (1 - kBeta2) * gi * gi;
      pi -= rate * (mi / (1 - std::pow(kBeta1, t))) / (std::sqrt(vi / (1 - std::pow(kBeta2, t))) + kEps);
    }
  }
  at::Tensor p, m, v;
  int t = 0;
};

TEST(AdamW, EqualsTheUpdateOfThePaperWrittenInDouble) {
  const TrainableParameter trained = parameter("w", 0, {4, 3});
  NaiveAdamW naive(trained.tensor);
  AdamW optimizer({trained}, kOptions, {});
  for (int step = 0; step < 20; ++step) {
    const double factor = 1.0 / (1 + step);
    trained.tensor.mutable_grad() = draw(100 + step, {4, 3});
    naive.step(trained.tensor.grad(), kRate * factor);
    optimizer.set_factor(factor);
    optimizer.step(finite());
  }
  const auto near = Bound{.absolute = 2e-6, .relative = 2e-6};
  EXPECT_TRUE(compare_tensors(trained.tensor.detach(), naive.p.to(at::kFloat), near))
      << compare_tensors(trained.tensor.detach(), naive.p.to(at::kFloat), near).message;
  EXPECT_TRUE(compare_tensors(optimizer.state().at("state/w/exp_avg"), naive.m.to(at::kFloat), near));
  EXPECT_TRUE(compare_tensors(optimizer.state().at("state/w/exp_avg_sq"), naive.v.to(at::kFloat), near));
  EXPECT_EQ(optimizer.state().at("state/w/step").item<float>(), 20.0F);
}

TEST(AdamW, EqualsLibTorchsOwnWithinRounding) {
  const TrainableParameter trained = parameter("w", 0, {8, 8});
  at::Tensor reference = trained.tensor.detach().clone().requires_grad_();
  torch::optim::AdamW theirs({reference},
                             torch::optim::AdamWOptions(kRate).betas({kBeta1, kBeta2}).eps(kEps).weight_decay(kDecay));
  AdamW ours({trained}, kOptions, {});
  for (int step = 0; step < 10; ++step) {
    trained.tensor.mutable_grad() = draw(50 + step, {8, 8});
    reference.mutable_grad() = trained.tensor.grad().clone();
    ours.step(finite());
    theirs.step();
  }
  const auto result =
      compare_tensors(trained.tensor.detach(), reference.detach(), {.absolute = 1e-6, .relative = 1e-6});
  EXPECT_TRUE(result) << result.message;
}

TEST(AdamW, ParameterWithoutGradientIsNotTouchedByWeightDecayEither) {
  const TrainableParameter with = parameter("with", 0, {3});
  const TrainableParameter without = parameter("without", 1, {3});
  const at::Tensor before = without.tensor.detach().clone();
  AdamW optimizer({with, without}, kOptions, {});
  with.tensor.mutable_grad() = draw(9, {3});
  optimizer.step(finite());
  EXPECT_BITWISE_EQUAL(without.tensor.detach(), before);
  EXPECT_EQ(optimizer.state().at("state/without/step").item<float>(), 0.0F);
  EXPECT_EQ(optimizer.state().at("state/with/step").item<float>(), 1.0F);
}

TEST(AdamW, GradientThatIsPresentAndZeroStillDecaysTheWeight) {
  const TrainableParameter trained = parameter("w", 0, {3});
  const at::Tensor before = trained.tensor.detach().clone();
  AdamW optimizer({trained}, kOptions, {});
  trained.tensor.mutable_grad() = at::zeros({3});
  optimizer.step(finite());
  const auto result = compare_tensors(trained.tensor.detach(), before * (1 - kRate * kDecay), {.relative = 1e-6});
  EXPECT_TRUE(result) << result.message;
}

TEST(AdamW, StepThatFoundInfLeavesWeightsMomentsAndCountsBitForBit) {
  const TrainableParameter trained = parameter("w", 0, {3});
  AdamW optimizer({trained}, kOptions, {});
  trained.tensor.mutable_grad() = draw(9, {3});
  optimizer.step(finite());
  const at::Tensor weights = trained.tensor.detach().clone();
  std::map<std::string, at::Tensor> before;
  for (const auto& [name, tensor] : optimizer.state()) before[name] = tensor.clone();
  trained.tensor.mutable_grad() = at::full({3}, std::numeric_limits<float>::quiet_NaN());
  optimizer.step(at::ones({}));
  EXPECT_BITWISE_EQUAL(trained.tensor.detach(), weights);
  for (const auto& [name, tensor] : optimizer.state()) EXPECT_BITWISE_EQUAL(tensor, before.at(name)) << name;
}

TEST(AdamW, StateIsEightBytesPerElementAndFourPerTensor) {
  const AdamW optimizer({parameter("a", 0, {7, 5}), parameter("b", 1, {11})}, kOptions, {});
  EXPECT_EQ(optimizer.state_bytes(), 8 * (35 + 11) + 4 * 2);
}

TEST(AdamW, LayerDecayLowersTheRateTowardsTheFirstBlock) {
  TrainableParameter first = parameter("blocks.0.w", 0, {2});
  TrainableParameter last = parameter("blocks.2.w", 1, {2});
  first.block = 0;
  last.block = 2;
  first.stack_blocks = last.stack_blocks = 3;
  OptimizerOptions options = kOptions;
  options.layer_decay = 0.5;
  const AdamW optimizer({first, last, parameter("head.w", 2, {2})}, options, {});
  EXPECT_DOUBLE_EQ(optimizer.peak_rate("blocks.0.w"), kRate / 4);
  EXPECT_DOUBLE_EQ(optimizer.peak_rate("blocks.2.w"), kRate);
  EXPECT_DOUBLE_EQ(optimizer.peak_rate("head.w"), kRate);
}

TEST(AdamW, LaterRateRuleWins) {
  OptimizerOptions options = kOptions;
  options.rates = {{.pattern = "*", .learning_rate = 1e-3}, {.pattern = "head*", .learning_rate = 5e-4}};
  const AdamW optimizer({parameter("body.w", 0, {2}), parameter("head.w", 1, {2})}, options, {});
  EXPECT_DOUBLE_EQ(optimizer.peak_rate("body.w"), 1e-3);
  EXPECT_DOUBLE_EQ(optimizer.peak_rate("head.w"), 5e-4);
}

TEST(AdamW, GroupsWithTheirOwnRatesMoveByThem) {
  OptimizerOptions options = kOptions;
  options.weight_decay = 0.0;
  options.rates = {{.pattern = "slow", .learning_rate = kRate / 10}};
  const TrainableParameter slow = parameter("slow", 0, {3});
  const TrainableParameter fast = parameter("fast", 0, {3});
  const at::Tensor start = fast.tensor.detach().clone();
  AdamW optimizer({slow, fast}, options, {});
  slow.tensor.mutable_grad() = at::ones({3});
  fast.tensor.mutable_grad() = at::ones({3});
  optimizer.step(finite());
  // The first AdamW step is the rate itself.
  const Bound near{.absolute = 1e-6};
  EXPECT_TRUE(compare_tensors(start - fast.tensor.detach(), at::full({3}, kRate), near));
  EXPECT_TRUE(compare_tensors(start - slow.tensor.detach(), at::full({3}, kRate / 10), near));
}

TEST(AdamW, RateRuleThatMatchesNothingThrowsWithNearestNames) {
  OptimizerOptions options = kOptions;
  options.rates = {{.pattern = "state_porj*", .learning_rate = 1e-3}};
  const std::string message = toy::message_of<UsageError>(
      [&] { const AdamW optimizer({parameter("state_proj.weight", 0, {2})}, options, {}); });
  EXPECT_THAT(message, testing::AllOf(testing::HasSubstr("state_porj*"), testing::HasSubstr("state_proj.weight")));
}

TEST(AdamW, WhatOptionsLeaveOpenComesFromThePreset) {
  const AdamW optimizer({parameter("w", 0, {2})}, {}, {.learning_rate = 0.25});
  EXPECT_DOUBLE_EQ(optimizer.base_rate(), 0.25);
}

TEST(AdamW, LoadedStateThatDoesNotFitChangesNothing) {
  AdamW optimizer({parameter("w", 0, {2})}, kOptions, {});
  std::map<std::string, at::Tensor> wrong;
  for (const auto& [name, tensor] : optimizer.state()) wrong[name] = at::ones_like(tensor);
  wrong["state/w/step"] = at::ones({2});
  const std::string message = toy::message_of<MismatchError>([&] { optimizer.load_state(wrong); });
  EXPECT_THAT(message, testing::HasSubstr("state/w/step"));
  EXPECT_BITWISE_EQUAL(optimizer.state().at("state/w/exp_avg"), at::zeros({2}));
}

}  // namespace
}  // namespace thaw::optimizer_test
