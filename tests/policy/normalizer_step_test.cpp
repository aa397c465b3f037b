// Values worked out by hand in float32-exact numbers.
#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/policy/processor_steps.h"
#include "thaw/tensor/compare.h"

namespace thaw::normalizer_step_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kState = "observation.state";

NormalizerOptions options(NormalizationMode mode) {
  const auto row = [](std::vector<float> values) { return at::tensor(values); };
  const std::map<std::string, at::Tensor> statistics{{"mean", row({1, 2})}, {"std", row({2, 4})}, {"min", row({-1, 0})},
                                                     {"max", row({3, 8})},  {"q01", row({0, 1})}, {"q99", row({4, 5})},
                                                     {"q10", row({1, 0})},  {"q90", row({2, 16})}};
  return {.eps = 0.0,
          .features = {{.name = kState, .type = FeatureType::state, .shape = {2}},
                       {.name = "action", .type = FeatureType::action, .shape = {2}}},
          .norm_map = {{FeatureType::state, mode}, {FeatureType::action, mode}},
          .statistics = {{kState, statistics}, {"action", statistics}}};
}

Batch batch_of(const at::Tensor& tensor) {
  return {.tensors = {{kState, tensor}, {"action", tensor.unsqueeze(1)}}, .tasks = {""}, .indices = {0}};
}

at::Tensor applied(const std::shared_ptr<ProcessorStep>& step, const at::Tensor& tensor) {
  Batch batch = batch_of(tensor);
  step->apply(batch);
  EXPECT_TRUE(bitwise_equal(batch.at("action").squeeze(1), batch.at(kState)));
  return batch.at(kState);
}

at::Tensor row(std::vector<float> values) { return at::tensor(values).unsqueeze(0); }

struct ModeCase {
  NormalizationMode mode;
  std::vector<float> expected;  ///< of (3, 4)
};

TEST(Normalizer, EveryModeGivesTheValuesWorkedOutByHandAndComesBack) {
  const std::vector<ModeCase> cases{{NormalizationMode::identity, {3, 4}},
                                    {NormalizationMode::mean_std, {1, 0.5}},
                                    {NormalizationMode::min_max, {1, 0}},
                                    {NormalizationMode::quantiles, {0.5, 0.5}},
                                    {NormalizationMode::quantile10, {3, -0.5}}};
  for (const ModeCase& item : cases) {
    const at::Tensor normalized = applied(make_normalizer_step(options(item.mode)), row({3, 4}));
    const auto forward = compare_tensors(normalized, row(item.expected));
    EXPECT_TRUE(forward) << normalization_mode_name(item.mode) << forward.message;
    const auto back = compare_tensors(applied(make_unnormalizer_step(options(item.mode)), normalized), row({3, 4}));
    EXPECT_TRUE(back) << normalization_mode_name(item.mode) << back.message;
  }
}

TEST(Normalizer, EpsIsAddedToTheDeviationForwardOnly) {
  NormalizerOptions with_eps = options(NormalizationMode::mean_std);
  with_eps.eps = 2.0;
  EXPECT_TRUE(compare_tensors(applied(make_normalizer_step(with_eps), row({5, 8})), row({1, 1})));
  EXPECT_TRUE(compare_tensors(applied(make_unnormalizer_step(with_eps), row({1, 1})), row({3, 6})));
}

TEST(Normalizer, EpsTakesThePlaceOfARangeOfZero) {
  NormalizerOptions flat = options(NormalizationMode::min_max);
  flat.eps = 0.5;
  for (auto& [feature, statistics] : flat.statistics) statistics["max"] = statistics["min"];
  // 2 (x - min) / 0.5 - 1
  EXPECT_TRUE(compare_tensors(applied(make_normalizer_step(flat), row({0, 0})), row({3, -1})));
  EXPECT_TRUE(compare_tensors(applied(make_unnormalizer_step(flat), row({3, -1})), row({0, 0})));
}

TEST(Normalizer, FeatureWithoutStatisticsOrModeStaysAsItIs) {
  NormalizerOptions none = options(NormalizationMode::mean_std);
  none.statistics.clear();
  EXPECT_TRUE(bitwise_equal(applied(make_normalizer_step(none), row({3, 4})), row({3, 4})));
  NormalizerOptions unmapped = options(NormalizationMode::mean_std);
  unmapped.norm_map.clear();
  EXPECT_TRUE(bitwise_equal(applied(make_normalizer_step(unmapped), row({3, 4})), row({3, 4})));
}

TEST(Normalizer, MissingStatisticThrowsNamingFeatureAndStatistic) {
  NormalizerOptions lacking = options(NormalizationMode::quantiles);
  lacking.statistics[kState].erase("q99");
  EXPECT_THAT(message_of<MismatchError>([&] {
                applied(make_normalizer_step(lacking), row({3, 4}));
              }),
              AllOf(HasSubstr("'observation.state'"), HasSubstr("'q99'"), HasSubstr("QUANTILES")));
}

TEST(Normalizer, StatisticsOfAnotherWidthThrowWithBothShapes) {
  EXPECT_THAT(message_of<MismatchError>([&] {
                applied(make_normalizer_step(options(NormalizationMode::mean_std)), row({1, 2, 3}));
              }),
              AllOf(HasSubstr("[1, 3]"), HasSubstr("[2]")));
}

TEST(Normalizer, OnlyTheListedObservationsAreNormalised) {
  NormalizerOptions listed = options(NormalizationMode::mean_std);
  listed.normalize_observation_keys = std::vector<std::string>{"observation.other"};
  Batch batch = batch_of(row({3, 4}));
  make_normalizer_step(listed)->apply(batch);
  EXPECT_TRUE(bitwise_equal(batch.at(kState), row({3, 4})));
  EXPECT_TRUE(compare_tensors(batch.at("action").squeeze(1), row({1, 0.5})));
}

TEST(Normalizer, ActionIsNormalisedEvenWhereFeaturesDoNotListIt) {
  NormalizerOptions unlisted = options(NormalizationMode::mean_std);
  unlisted.features.clear();
  Batch batch = batch_of(row({3, 4}));
  make_normalizer_step(unlisted)->apply(batch);
  EXPECT_TRUE(compare_tensors(batch.at("action").squeeze(1), row({1, 0.5})));
}

TEST(Normalizer, WholeNumbersAndBooleansServeAsStatistics) {
  NormalizerOptions whole = options(NormalizationMode::mean_std);
  for (auto& [feature, statistics] : whole.statistics) {
    statistics["mean"] = at::tensor({1, 2}, at::kLong);
    statistics["std"] = at::ones({2}, at::kBool);
  }
  EXPECT_TRUE(compare_tensors(applied(make_normalizer_step(whole), row({3, 4})), row({2, 2})));
}

TEST(Normalizer, ResultKeepsTheDtypeOfTheTensorAndWholeNumbersBecomeFloat32) {
  const auto step = make_normalizer_step(options(NormalizationMode::mean_std));
  EXPECT_TRUE(compare_tensors(applied(step, row({3, 4}).to(at::kDouble)), row({1, 0.5}).to(at::kDouble)));
  EXPECT_TRUE(compare_tensors(applied(step, row({3, 4}).to(at::kBFloat16)), row({1, 0.5}).to(at::kBFloat16)));
  EXPECT_TRUE(compare_tensors(applied(step, row({3, 4}).to(at::kLong)), row({1, 0.5})));
}

TEST(Normalizer, FlatImageStatisticsApplyToChannels) {
  const char* image = "observation.images.front";
  const NormalizerOptions visual{
      .eps = 0.0,
      .features = {{.name = image, .type = FeatureType::visual, .shape = {3, 1, 2}}},
      .norm_map = {{FeatureType::visual, NormalizationMode::mean_std}},
      .statistics = {{image, {{"mean", at::tensor({0.0F, 1.0F, 2.0F})}, {"std", at::tensor({1.0F, 2.0F, 4.0F})}}}}};
  Batch batch{.tensors = {{image, at::full({1, 3, 1, 2}, 4.0)}}, .tasks = {""}, .indices = {0}};
  const auto step = make_normalizer_step(visual);
  step->apply(batch);
  EXPECT_TRUE(compare_tensors(batch.at(image), at::tensor({4.0F, 4.0F, 1.5F, 1.5F, 0.5F, 0.5F}).reshape({1, 3, 1, 2})));
  EXPECT_EQ(step->state().at("observation.images.front.mean").sizes(), at::IntArrayRef({3, 1, 1}));
}

TEST(Normalizer, StateNamesEveryStatisticAsFloat32) {
  NormalizerOptions wide = options(NormalizationMode::mean_std);
  wide.statistics = {{"a.b", {{"mean", at::tensor({1.0, 2.0}, at::kDouble)}, {"count", at::tensor({7}, at::kLong)}}}};
  const auto state = make_unnormalizer_step(wide)->state();
  ASSERT_EQ(state.size(), 2U);
  EXPECT_TRUE(compare_tensors(state.at("a.b.mean"), at::tensor({1.0F, 2.0F})));
  EXPECT_TRUE(compare_tensors(state.at("a.b.count"), at::tensor({7.0F})));
}

TEST(Normalizer, NegativeEpsIsRefused) {
  NormalizerOptions bad = options(NormalizationMode::min_max);
  bad.eps = -1e-8;
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(make_normalizer_step(bad)); }), HasSubstr("eps"));
}

TEST(NormalizationMode, UnknownWordThrowsWithTheNearest) {
  EXPECT_EQ(parse_normalization_mode("QUANTILE10"), NormalizationMode::quantile10);
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(parse_normalization_mode("MEAN_STDD")); }),
              HasSubstr("Did you mean 'MEAN_STD'"));
}

}  // namespace
}  // namespace thaw::normalizer_step_test
