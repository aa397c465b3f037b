// Several noise draws over one prefix: the loss and every gradient are the mean of separate steps.
#include <torch/nn/module.h>

#include "models/tiny_cases.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/compare.h"

namespace thaw::policy_draws_test {
namespace {

struct Step {
  at::Tensor loss;
  std::map<std::string, at::Tensor> gradients;
};

Step step(const Policy& policy, const Batch& batch, const Draw& draw) {
  for (auto& item : policy.module()->named_parameters()) item.value().mutable_grad() = at::Tensor();
  PrefixState state = policy.begin(batch);
  policy.add_draw(state, batch, draw);
  run_stages(policy.line(), 0, policy.line().size(), state);
  const at::Tensor loss = policy.loss(state, batch, draw, Reduction::mean);
  loss.backward();
  Step result{.loss = loss.detach()};
  for (const auto& item : policy.module()->named_parameters()) {
    if (item.value().grad().defined()) result.gradients[item.key()] = item.value().grad().clone();
  }
  return result;
}

class PolicyDraws : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Types, PolicyDraws, testing::Values("smolvla", "pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(PolicyDraws, ShareAPrefixAndGiveTheMeanLossAndGradientsOfSeparateSteps) {
  const auto policy = tiny::tiny_case(GetParam()).policy;
  const Batch batch = tiny::tiny_case(GetParam()).batch(2);
  constexpr std::int64_t kDraws = 3;
  const Draw together = policy->draw(batch, 7, DrawPurpose::training, 4, kDraws);
  const Step folded = step(*policy, batch, together);
  std::vector<at::Tensor> losses;
  std::map<std::string, at::Tensor> mean;
  for (std::int64_t k = 0; k < kDraws; ++k) {
    const Step single =
        step(*policy, batch, {.noise = together.noise.select(1, k), .time = together.time.select(1, k)});
    losses.push_back(single.loss);
    for (const auto& [name, gradient] : single.gradients) {
      mean[name] = mean.contains(name) ? mean[name] + gradient / kDraws : gradient / kDraws;
    }
  }
  // Both orders of summation round in float32: a few ulp of the largest value.
  const auto loss = compare_tensors(folded.loss, at::stack(losses).mean(), {.relative = 1e-5});
  EXPECT_TRUE(loss) << loss.message;
  ASSERT_EQ(folded.gradients.size(), mean.size());
  for (const auto& [name, gradient] : mean) {
    const auto result =
        compare_tensors(folded.gradients.at(name), gradient, {.absolute = 1e-8, .relative_to_max = 2e-5});
    EXPECT_TRUE(result) << name << ": " << result.message;
  }
}

TEST_P(PolicyDraws, DrawKOfAStepIsAPureFunctionOfStepAndKAndOneDrawIsTheOldOne) {
  const auto policy = tiny::tiny_case(GetParam()).policy;
  const Batch batch = tiny::tiny_case(GetParam()).batch(2);
  const Draw three = policy->draw(batch, 7, DrawPurpose::training, 4, 3);
  const Draw single = policy->draw(batch, 7, DrawPurpose::training, 13, 1);
  EXPECT_TRUE(bitwise_equal(three.noise.select(1, 1), single.noise));
  EXPECT_TRUE(bitwise_equal(three.time.select(1, 1), single.time));
  EXPECT_EQ(single.noise.dim(), 3);
}

TEST_P(PolicyDraws, SamplingFromAPrefixEqualsSamplingFromTheBatch) {
  const auto policy = tiny::tiny_case(GetParam()).policy;
  const Batch batch = tiny::tiny_case(GetParam()).batch(2);
  const at::Tensor noise = policy->draw(batch, 7, DrawPurpose::evaluation, 0).noise;
  PrefixState state = policy->begin(batch);
  run_frozen_stages(policy->line(), 0, policy->first_draw_stage(), state);
  EXPECT_FALSE(state.has("pixels"));
  EXPECT_FALSE(state.has("vision.hidden"));
  EXPECT_TRUE(bitwise_equal(policy->sample_from(state, noise), policy->sample(batch, noise)));
}

}  // namespace
}  // namespace thaw::policy_draws_test
