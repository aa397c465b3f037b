// What is measured, and how a rate that was not measured is found.
#include "thaw/freeze/calibration.h"

#include "sized_layout.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::calibration_test {
namespace {

using test::message_of;
using test::sized_layout;
using testing::HasSubstr;

TEST(Calibration, MeasuresForwardProductsAndThoseOfTheGradientsThatBackwardTakes) {
  const ModelLayout layout = sized_layout();
  const FreezePlan plan = LayerFreezePolicy::parse("head=1").resolve(layout);
  const std::vector<PrefixCut> cuts(1);
  const std::vector<ProductShape> shapes = step_products(layout, plan, cuts, {.batch_size = 32, .prefix_batch = 2});
  // Rows are operations / (2 · 16 elements): 3.125 a tower block, 1.5625 the middle, 0.9375 and 0.625 the head.
  const auto has = [&shapes](std::int64_t rows, std::int64_t in, std::int64_t out) {
    return std::find(shapes.begin(), shapes.end(), ProductShape{.rows = rows, .in = in, .out = out}) != shapes.end();
  };
  EXPECT_TRUE(has(6, 4, 4)) << "two samples at a time through the frozen tower";
  EXPECT_TRUE(has(20, 4, 4)) << "the whole batch behind the boundary";
  EXPECT_TRUE(has(4, 20, 4)) << "the gradient of head.1's weight";
  EXPECT_FALSE(has(100, 4, 4));
  const std::vector<PrefixCut> with_cache{{}, deepest_cut(layout, plan, CacheCut::vision)};
  const std::vector<ProductShape> more = step_products(layout, plan, with_cache, {.batch_size = 32, .prefix_batch = 2});
  EXPECT_EQ(std::count(more.begin(), more.end(), ProductShape{.rows = 50, .in = 4, .out = 4}), 1)
      << "behind a cut the whole batch goes through at once";
  EXPECT_TRUE(std::is_sorted(shapes.begin(), shapes.end()));
}

TEST(Calibration, GivesAPositiveRateForEveryShape) {
  const std::vector<ProductShape> shapes{{.rows = 3, .in = 8, .out = 5}, {.rows = 16, .in = 4, .out = 4}};
  int calls = 0;
  const MachineRates rates =
      calibrate(shapes, {.seconds = 0.001, .product = [&calls](const at::Tensor& x, const at::Tensor& weight) {
                           ++calls;
                           return at::linear(x, weight);
                         }});
  EXPECT_GE(calls, 4) << "one run that is not counted and one that is, for each";
  ASSERT_EQ(rates.products.size(), 2U);
  for (const auto& [shape, rate] : rates.products) EXPECT_GT(rate, 0) << shape.rows;
  EXPECT_GT(rates.seconds_per_output_byte, 0);
  EXPECT_GT(rates.seconds_per_updated_element, 0);
  EXPECT_EQ(rates.to_json()["products"].size(), 2U);
}

TEST(Calibration, AShapeThatWasNotMeasuredTakesTheNearestByRatio) {
  MachineRates rates;
  rates.products[{.rows = 1, .in = 10, .out = 10}] = 1.0;
  rates.products[{.rows = 1000, .in = 10, .out = 10}] = 2.0;
  EXPECT_EQ(rates.product_rate({.rows = 1, .in = 10, .out = 10}), 1.0);
  EXPECT_EQ(rates.product_rate({.rows = 20, .in = 10, .out = 10}), 1.0);
  EXPECT_EQ(rates.product_rate({.rows = 50, .in = 10, .out = 10}), 2.0);
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(MachineRates{}.product_rate({})); }),
              HasSubstr("at least one measured product"));
}

}  // namespace
}  // namespace thaw::calibration_test
