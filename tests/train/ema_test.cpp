#include "thaw/train/ema.h"

#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"
#include "toy.h"

namespace thaw::ema_test {
namespace {

const at::Tensor& finite() {
  static const at::Tensor kZero = at::zeros({});
  return kZero;
}

TrainableParameter parameter(float value) { return {.name = "w", .tensor = at::full({2}, value).requires_grad_()}; }

void set(const TrainableParameter& parameter, float value) {
  const at::NoGradGuard no_grad;
  at::Tensor(parameter.tensor).fill_(value);
}

TEST(Ema, FixedDecayIsTheFormula) {
  const TrainableParameter w = parameter(1.0F);
  Ema ema({w}, {.enable = true, .decay = 0.75});
  set(w, 5.0F);
  ema.update(1, finite());
  EXPECT_TRUE(compare_tensors(ema.state().at("w"), at::full({2}, 2.0F), {.absolute = 1e-6}));
}

TEST(Ema, WarmUpStartsAsACopyAndApproachesTheLimit) {
  const Ema ema({parameter(1.0F)}, {.enable = true});
  EXPECT_DOUBLE_EQ(ema.decay(1), 0.0);
  EXPECT_NEAR(ema.decay(2), 1.0 - std::pow(2.0, -0.75), 1e-12);
  EXPECT_DOUBLE_EQ(ema.decay(100'000'000), 0.9999);
}

TEST(Ema, SkippedStepLeavesEveryBitEvenTheSignOfZero) {
  const TrainableParameter w = parameter(-0.0F);
  Ema ema({w}, {.enable = true, .decay = 0.5});
  set(w, 3.0F);
  ema.update(1, at::ones({}));
  EXPECT_BITWISE_EQUAL(ema.state().at("w"), at::full({2}, -0.0F));
}

TEST(Ema, ScopePutsAveragesInPlaceAndParametersBack) {
  const TrainableParameter w = parameter(1.0F);
  Ema ema({w}, {.enable = true, .decay = 0.5});
  set(w, 3.0F);
  {
    const EmaScope scope(ema);
    EXPECT_BITWISE_EQUAL(w.tensor.detach(), at::full({2}, 1.0F));
  }
  EXPECT_BITWISE_EQUAL(w.tensor.detach(), at::full({2}, 3.0F));
  EXPECT_BITWISE_EQUAL(ema.state().at("w"), at::full({2}, 1.0F));
}

TEST(Ema, DisabledHoldsNothingAndRefusesAState) {
  Ema ema({parameter(1.0F)}, {});
  EXPECT_FALSE(ema.enabled());
  EXPECT_TRUE(ema.state().empty());
  EXPECT_THAT(toy::message_of<MismatchError>([&] {
                ema.load_state({{"w", at::ones({2})}});
              }),
              testing::HasSubstr("EMA: w"));
}

}  // namespace
}  // namespace thaw::ema_test
