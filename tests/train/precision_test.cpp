#include "thaw/train/precision.h"

#include <ATen/autocast_mode.h>

#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/device.h"
#include "toy.h"

namespace thaw::precision_test {
namespace {

const at::Device kCpu(at::kCPU);

TEST(Precision, AutomaticIsBf16OnlyWhereItIsNative) {
  EXPECT_EQ(resolve_precision(Precision::automatic, kCpu), has_native_bf16(kCpu) ? Precision::bf16 : Precision::fp32);
  EXPECT_EQ(resolve_precision(Precision::bf16, kCpu), Precision::bf16);
}

TEST(Precision, FrozenMatricesAreHeldInTheComputeDtypeAndEverythingElseAsFloat32) {
  toy::Model model;
  model->to(at::kBFloat16);
  const FreezePlan plan = toy::plan_of(*model, toy::last_block);
  cast_parameters(plan, *model, Precision::fp16);
  for (const auto& item : model->named_parameters()) {
    const bool is_frozen_matrix = !plan.trains(item.key()) && item.value().dim() >= 2;
    EXPECT_EQ(item.value().scalar_type(), is_frozen_matrix ? at::kHalf : at::kFloat) << item.key();
  }
}

TEST(Precision, DoubleAndBuffersStayAsTheyAre) {
  toy::Model model(toy::ModelOptions{.batch_norm = true});
  model->embed->to(at::kDouble);
  cast_parameters(toy::plan_of(*model, toy::last_block), *model, Precision::bf16);
  EXPECT_EQ(model->embed->weight.scalar_type(), at::kDouble);
  EXPECT_EQ(model->batch_norm->running_mean.scalar_type(), at::kFloat);
  EXPECT_EQ(model->batch_norm->num_batches_tracked.scalar_type(), at::kLong);
}

TEST(Precision, CastKeepsTheValuesThatFit) {
  toy::Model model;
  const at::Tensor before = model->embed->weight.detach().clone();
  cast_parameters(toy::plan_of(*model, toy::last_block), *model, Precision::bf16);
  EXPECT_BITWISE_EQUAL(model->embed->weight.detach(), before.to(at::kBFloat16));
}

TEST(Autocast, RunsProductsInTheComputeDtypeAndEndsAsItBegan) {
  const at::Tensor a = at::ones({2, 2});
  const bool enabled = at::autocast::is_autocast_enabled(at::kCPU);
  const at::ScalarType dtype = at::autocast::get_autocast_dtype(at::kCPU);
  {
    const AutocastScope scope(Precision::bf16, kCpu);
    EXPECT_EQ(at::mm(a, a).scalar_type(), at::kBFloat16);
    {
      const AutocastScope inner(Precision::fp32, kCpu);
      EXPECT_EQ(at::mm(a, a).scalar_type(), at::kFloat);
    }
    EXPECT_EQ(at::mm(a, a).scalar_type(), at::kBFloat16);
  }
  EXPECT_EQ(at::mm(a, a).scalar_type(), at::kFloat);
  EXPECT_EQ(at::autocast::is_autocast_enabled(at::kCPU), enabled);
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), dtype);
}

TEST(Autocast, WeightCastInOneScopeIsNotReusedInTheNext) {
  at::Tensor weight = at::ones({2, 2}).requires_grad_();
  const at::Tensor x = at::ones({2, 2});
  const auto product = [&] {
    const AutocastScope scope(Precision::bf16, kCpu);
    return at::mm(x, weight).detach().to(at::kFloat);
  };
  EXPECT_BITWISE_EQUAL(product(), at::full({2, 2}, 2.0F));
  {
    const at::NoGradGuard no_grad;
    weight.fill_(3.0);
  }
  EXPECT_BITWISE_EQUAL(product(), at::full({2, 2}, 6.0F));
}

TEST(LossScaler, IsOffUnlessThePrecisionIsFp16) {
  const LossScaler scaler(Precision::bf16, kCpu);
  EXPECT_FALSE(scaler.enabled());
  EXPECT_FALSE(scaler.unscale({at::ones({2})}).defined());
  EXPECT_BITWISE_EQUAL(scaler.scale(at::full({}, 3.0F)), at::full({}, 3.0F));
}

TEST(LossScaler, UnscaleDividesAndFindsTheOverflow) {
  const LossScaler scaler(Precision::fp16, kCpu);
  EXPECT_FLOAT_EQ(scaler.scale(at::ones({})).item<float>(), 65536.0F);
  const at::Tensor gradient = at::full({3}, 65536.0F);
  EXPECT_EQ(scaler.unscale({gradient}).item<float>(), 0.0F);
  EXPECT_BITWISE_EQUAL(gradient, at::ones({3}));
  EXPECT_EQ(scaler.unscale({at::ones({2}), at::full({2}, std::numeric_limits<float>::infinity())}).item<float>(), 1.0F);
}

TEST(LossScaler, HalvesOnOverflowAndDoublesAfterTwoThousandGoodSteps) {
  LossScaler scaler(Precision::fp16, kCpu);
  scaler.update(at::ones({}));
  EXPECT_DOUBLE_EQ(scaler.state().scale, 32768.0);
  for (int step = 0; step < 1999; ++step) scaler.update(at::zeros({}));
  EXPECT_DOUBLE_EQ(scaler.state().scale, 32768.0);
  EXPECT_EQ(scaler.state().growth_tracker, 1999);
  scaler.update(at::zeros({}));
  EXPECT_DOUBLE_EQ(scaler.state().scale, 65536.0);
  EXPECT_EQ(scaler.state().growth_tracker, 0);
}

TEST(LossScaler, ComesBackFromItsState) {
  LossScaler scaler(Precision::fp16, kCpu);
  scaler.load({.scale = 512.0, .growth_tracker = 1234});
  EXPECT_DOUBLE_EQ(scaler.state().scale, 512.0);
  EXPECT_EQ(scaler.state().growth_tracker, 1234);
}

}  // namespace
}  // namespace thaw::precision_test
