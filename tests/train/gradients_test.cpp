#include "thaw/train/gradients.h"

#include <torch/nn/utils/clip_grad.h>

#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"
#include "thaw/train/gradient_guard.h"
#include "toy.h"

namespace thaw::gradients_test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<TrainableParameter> with_gradients(const std::vector<at::Tensor>& gradients) {
  std::vector<TrainableParameter> parameters;
  for (const at::Tensor& gradient : gradients) {
    TrainableParameter parameter{.name = fmt::format("p{}", parameters.size()),
                                 .tensor = at::zeros({3}).requires_grad_()};
    if (gradient.defined()) parameter.tensor.mutable_grad() = gradient.clone();
    parameters.push_back(parameter);
  }
  return parameters;
}

TEST(Gradients, ClipIsTheFormulaOfTorch) {
  const std::vector<at::Tensor> gradients = {at::tensor({3.0F, 0.0F, 4.0F}), at::tensor({0.0F, 12.0F, 0.0F})};
  const auto parameters = with_gradients(gradients);
  const GradientNorms norms = gradient_norms(parameters);
  EXPECT_FLOAT_EQ(norms.total.item<float>(), 13.0F);
  clip_gradients(parameters, norms, 6.5);
  const float coefficient = static_cast<float>(6.5) / (13.0F + 1e-6F);
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const auto result = compare_tensors(parameters[i].tensor.grad(), gradients[i] * coefficient, {.relative = 1e-6});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(Gradients, ClipEqualsLibTorchsClipGradNorm) {
  const std::vector<at::Tensor> gradients = {random_normal({.seed = 3}, {3}), 5 * random_normal({.seed = 4}, {3})};
  const auto ours = with_gradients(gradients);
  const auto theirs = with_gradients(gradients);
  clip_gradients(ours, gradient_norms(ours), 1.0);
  std::vector<at::Tensor> tensors = {theirs[0].tensor, theirs[1].tensor};
  (void)torch::nn::utils::clip_grad_norm_(tensors, 1.0);
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const auto result = compare_tensors(ours[i].tensor.grad(), theirs[i].tensor.grad(), {.relative = 1e-6});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(Gradients, SmallNormAndNoLimitLeaveGradientsBitForBit) {
  const std::vector<at::Tensor> gradients = {at::tensor({0.1F, 0.2F, 0.3F})};
  for (const double limit : {10.0, 0.0}) {
    const auto parameters = with_gradients(gradients);
    clip_gradients(parameters, gradient_norms(parameters), limit);
    EXPECT_BITWISE_EQUAL(parameters[0].tensor.grad(), gradients[0]);
  }
}

TEST(Gradients, ParametersWithoutGradientAreLeftOutOfTheNorm) {
  const auto parameters = with_gradients({at::Tensor(), at::tensor({3.0F, 4.0F, 0.0F})});
  const GradientNorms norms = gradient_norms(parameters);
  EXPECT_THAT(norms.members, testing::ElementsAre(1));
  EXPECT_FLOAT_EQ(norms.total.item<float>(), 5.0F);
}

TEST(GradientRecord, TellsAbsentFromZeroFromEffective) {
  GradientRecord record(3, at::kCPU);
  record.note(gradient_norms(with_gradients({at::Tensor(), at::zeros({3}), at::ones({3})})));
  record.note(gradient_norms(with_gradients({at::Tensor(), at::full({3}, kNan), at::zeros({3})})));
  const auto flags = record.flags();
  EXPECT_FALSE(flags[0].seen);
  EXPECT_TRUE(flags[1].seen);
  EXPECT_FALSE(flags[1].effective);
  EXPECT_TRUE(flags[2].effective);
}

TEST(GradientRecord, ComesBackFromItsFlags) {
  GradientRecord record(2, at::kCPU);
  record.note(gradient_norms(with_gradients({at::ones({3}), at::Tensor()})));
  GradientRecord loaded(2, at::kCPU);
  loaded.load(record.flags());
  EXPECT_TRUE(loaded.flags()[0].effective);
  EXPECT_FALSE(loaded.flags()[1].seen);
}

float judge(GradientGuard& guard, float loss, float norm) {
  return guard.judge(at::scalar_tensor(loss, at::kFloat), at::scalar_tensor(norm, at::kFloat), {}).item<float>();
}

TEST(GradientGuard, NonFiniteLossOrNormSkipsTheStep) {
  GradientGuard guard(10, at::kCPU);
  EXPECT_EQ(judge(guard, 1.0F, 1.0F), 0.0F);
  EXPECT_EQ(judge(guard, kNan, 1.0F), 1.0F);
  EXPECT_EQ(judge(guard, 1.0F, kInf), 1.0F);
  EXPECT_EQ(judge(guard, -kInf, kNan), 1.0F);
  EXPECT_EQ(judge(guard, 1.0F, 1.0F), 0.0F);
  EXPECT_EQ(guard.counters().skipped, 3);
  EXPECT_EQ(guard.counters().consecutive, 0);
  EXPECT_EQ(guard.counters().longest, 3);
}

TEST(GradientGuard, OverflowFoundWhileUnscalingSkipsTheStep) {
  GradientGuard guard(10, at::kCPU);
  EXPECT_EQ(guard.judge(at::ones({}), at::ones({}), at::ones({})).item<float>(), 1.0F);
  EXPECT_EQ(guard.judge(at::ones({}), at::ones({}), at::zeros({})).item<float>(), 0.0F);
}

TEST(GradientGuard, StopsAfterTheAllowedNumberInARowAndNotBefore) {
  GradientGuard guard(3, at::kCPU);
  for (int step = 1; step <= 2; ++step) {
    judge(guard, kNan, 1.0F);
    EXPECT_NO_THROW(guard.check(step));
  }
  judge(guard, 1.0F, 1.0F);
  for (int step = 4; step <= 5; ++step) {
    judge(guard, kNan, 1.0F);
    EXPECT_NO_THROW(guard.check(step));
  }
  judge(guard, kNan, 1.0F);
  const std::string message = toy::message_of<CheckFailed>([&] { guard.check(6); });
  EXPECT_THAT(message, testing::AllOf(testing::HasSubstr("training step 6"), testing::HasSubstr("3 steps in a row"),
                                      testing::HasSubstr("5 skipped")));
}

}  // namespace
}  // namespace thaw::gradients_test
