// The staged forward pass of every policy: what stages say they read and write, and what may be cut off.
#include "models/line_checks.h"
#include "models/tiny_cases.h"

namespace thaw::policy_line_test {
namespace {

using line_checks::as_set;
using line_checks::expect_same;
using line_checks::finish;
using line_checks::forget_gradients;
using line_checks::keys_of;
using line_checks::Outcome;
using line_checks::restart_from;
using line_checks::train_only;
using tiny::tiny_case;

class PolicyLine : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Types, PolicyLine, testing::Values("smolvla", "pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(PolicyLine, EveryStageReadsAndWritesExactlyTheKeysItNames) {
  const auto policy = tiny_case(GetParam()).policy;
  const Batch batch = tiny_case(GetParam()).batch(2);
  PrefixState state = policy->begin(batch);
  policy->add_draw(state, batch, policy->draw(batch, 1, DrawPurpose::training, 0));
  for (const Stage& stage : policy->line()) {
    PrefixState only_reads;
    for (const std::string& key : stage.info.reads) only_reads.set(key, state.at(key));
    stage.run(only_reads);
    std::set<std::string> expected = as_set(stage.info.reads);
    expected.insert(stage.info.writes.begin(), stage.info.writes.end());
    EXPECT_EQ(keys_of(only_reads), expected) << stage.info.name;
    for (const std::string& key : stage.info.writes) state.set(key, only_reads.at(key));
  }
  EXPECT_TRUE(state.has(policy->layout().output_key));
}

TEST_P(PolicyLine, StagesUseExactlyTheParametersTheyName) {
  const auto policy = tiny_case(GetParam()).policy;
  const Batch batch = tiny_case(GetParam()).batch(2);
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  train_only(*policy, [](const std::string&) { return true; });
  PrefixState state = policy->begin(batch);
  policy->add_draw(state, batch, draw);
  for (const Stage& stage : policy->line()) {
    PrefixState detached;
    for (const std::string& key : stage.info.reads) detached.set(key, state.at(key).detach());
    stage.run(detached);
    at::Tensor sum = at::zeros({});
    for (const std::string& key : stage.info.writes) {
      if (detached.at(key).requires_grad()) sum = sum + detached.at(key).to(at::kFloat).square().sum();
      state.set(key, detached.at(key).detach());
    }
    if (sum.requires_grad()) sum.backward();
    std::set<std::string> touched;
    for (const auto& parameter : policy->module()->named_parameters()) {
      if (parameter.value().grad().defined()) touched.insert(parameter.key());
    }
    EXPECT_EQ(touched, as_set(stage.info.parameters)) << stage.info.name;
    forget_gradients(*policy);
  }
}

TEST_P(PolicyLine, EveryTensorOfTheStateHasTheBatchInFront) {
  const auto policy = tiny_case(GetParam()).policy;
  const Batch batch = tiny_case(GetParam()).batch(3);
  PrefixState state = policy->begin(batch);
  policy->add_draw(state, batch, policy->draw(batch, 1, DrawPurpose::training, 0));
  run_stages(policy->line(), 0, policy->line().size(), state);
  for (const auto& [key, tensor] : state.tensors()) EXPECT_EQ(tensor.size(0), 3) << key;
}

TEST_P(PolicyLine, RestartingFromAnyCutGivesTheSameVelocityAndGradientsBitForBit) {
  const auto policy = tiny_case(GetParam()).policy;
  const Batch batch = tiny_case(GetParam()).batch(2);
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  for (std::size_t cut = 1; cut <= policy->first_draw_stage(); ++cut) {
    // What trains is what the stages before the cut do not use.
    std::set<std::string> before;
    for (std::size_t i = 0; i < cut; ++i) {
      const auto& names = policy->line()[i].info.parameters;
      before.insert(names.begin(), names.end());
    }
    train_only(*policy, [&before](const std::string& name) { return !before.contains(name); });
    PrefixState joint = policy->begin(batch);
    policy->add_draw(joint, batch, draw);
    run_stages(policy->line(), 0, policy->line().size(), joint);
    const Outcome expected = finish(*policy, joint, batch, draw);
    forget_gradients(*policy);
    SCOPED_TRACE("cut before " + policy->line()[cut].info.name);
    expect_same(finish(*policy, restart_from(*policy, cut, batch, draw), batch, draw), expected);
  }
}

TEST_P(PolicyLine, FloatingTypesOfParametersMayBeMixedAnyhow) {
  const auto policy = tiny_case(GetParam()).policy;
  const Batch batch = tiny_case(GetParam()).batch(2);
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  std::int64_t count = 0;
  for (auto& parameter : policy->module()->named_parameters()) {
    const bool narrow = count++ % 3 != 0;  // weights, biases and norms of one layer in different types
    parameter.value().set_requires_grad(!narrow);
    if (narrow) parameter.value().set_data(parameter.value().to(at::kBFloat16));
  }
  PrefixState state = policy->begin(batch);
  policy->add_draw(state, batch, draw);
  run_stages(policy->line(), 0, policy->line().size(), state);
  const at::Tensor loss = policy->loss(state, batch, draw, Reduction::mean);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::isfinite(loss).item<bool>());
  loss.backward();
}

}  // namespace
}  // namespace thaw::policy_line_test
