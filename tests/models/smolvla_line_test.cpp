// The staged forward pass: what stages say they read and write, and what may be cut off or run without gradients.
#include <torch/nn/module.h>

#include <set>

#include "models/tiny_policy.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/compare.h"

namespace thaw {
namespace {

std::set<std::string> keys_of(const PrefixState& state) {
  std::set<std::string> keys;
  for (const auto& entry : state.tensors()) keys.insert(entry.first);
  return keys;
}

std::set<std::string> as_set(const std::vector<std::string>& names) { return {names.begin(), names.end()}; }

struct Outcome {
  at::Tensor velocity;
  std::map<std::string, at::Tensor> gradients;
};

void forget_gradients(const Policy& policy) {
  for (auto& parameter : policy.module()->named_parameters()) parameter.value().mutable_grad().reset();
}

Outcome finish(const Policy& policy, const PrefixState& state, const Batch& batch, const Draw& draw) {
  Outcome outcome{.velocity = state.at("velocity").detach().clone()};
  policy.loss(state, batch, draw, Reduction::mean).backward();
  for (const auto& parameter : policy.module()->named_parameters()) {
    const at::Tensor& gradient = parameter.value().grad();
    if (gradient.defined()) outcome.gradients[parameter.key()] = gradient.clone();
  }
  return outcome;
}

void train_only(const Policy& policy, const std::function<bool(const std::string&)>& trains) {
  forget_gradients(policy);
  for (auto& parameter : policy.module()->named_parameters()) {
    parameter.value().set_requires_grad(trains(parameter.key()));
  }
}

void expect_same(const Outcome& actual, const Outcome& expected) {
  EXPECT_TRUE(bitwise_equal(actual.velocity, expected.velocity));
  ASSERT_EQ(actual.gradients.size(), expected.gradients.size());
  for (const auto& [name, gradient] : expected.gradients) {
    ASSERT_TRUE(actual.gradients.contains(name)) << name;
    EXPECT_TRUE(bitwise_equal(actual.gradients.at(name), gradient)) << name;
  }
}

// Runs [0, cut) without gradients and keeps only what later stages read, as a cache would.
PrefixState restart_from(const Policy& policy, std::size_t cut, const Batch& batch, const Draw& draw) {
  PrefixState whole = policy.begin(batch);
  {
    const at::NoGradGuard no_grad;
    run_stages(policy.line(), 0, cut, whole);
  }
  std::set<std::string> written;
  std::set<std::string> needed;
  for (std::size_t i = cut; i < policy.line().size(); ++i) {
    for (const std::string& key : policy.line()[i].info.reads) {
      if (!written.contains(key)) needed.insert(key);
    }
    written.insert(policy.line()[i].info.writes.begin(), policy.line()[i].info.writes.end());
  }
  PrefixState kept;
  for (const std::string& key : needed) {
    if (whole.has(key)) kept.set(key, whole.at(key).clone());
  }
  policy.add_draw(kept, batch, draw);
  run_stages(policy.line(), cut, policy.line().size(), kept);
  return kept;
}

TEST(SmolVLALine, EveryStageReadsAndWritesExactlyTheKeysItNames) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();
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

TEST(SmolVLALine, StagesUseExactlyTheParametersTheyName) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();
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

TEST(SmolVLALine, EveryTensorOfTheStateHasTheBatchInFront) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch(3);
  PrefixState state = policy->begin(batch);
  policy->add_draw(state, batch, policy->draw(batch, 1, DrawPurpose::training, 0));
  run_stages(policy->line(), 0, policy->line().size(), state);
  for (const auto& [key, tensor] : state.tensors()) EXPECT_EQ(tensor.size(0), 3) << key;
}

TEST(SmolVLALine, OneStagePerBlockAndTheDrawIsReadBySuffixStagesOnly) {
  const auto policy = tiny::policy();
  std::vector<std::string> names;
  for (const Stage& stage : policy->line()) names.push_back(stage.info.name);
  const std::vector<std::string> expected{
      "vision.embed", "vision.0",     "vision.1",     "vision.post",     "connector", "prefix.embed",
      "A.language.0", "A.language.1", "A.language.2", "A.language.3",    "state",     "B.language.0",
      "B.language.1", "B.language.2", "B.language.3", "suffix.sequence", "cross.1",   "cross.3",
      "suffix.embed", "suffix.0",     "suffix.1",     "suffix.2",        "suffix.3",  "suffix.out"};
  EXPECT_EQ(names, expected);
  EXPECT_EQ(names.at(policy->first_draw_stage()), "suffix.embed");
}

TEST(SmolVLALine, RestartingFromAnyCutGivesTheSameVelocityAndGradientsBitForBit) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();
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

TEST(SmolVLALine, RowsOfImagesAndLanguageWithoutGradientsChangeNoGradientOfTheState) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  train_only(*policy, [](const std::string& name) { return name.find(".vlm.") == std::string::npos; });
  PrefixState with_graph = policy->begin(batch);
  policy->add_draw(with_graph, batch, draw);
  run_stages(policy->line(), 0, policy->line().size(), with_graph);
  const Outcome expected = finish(*policy, with_graph, batch, draw);
  ASSERT_TRUE(expected.gradients.contains("model.state_proj.weight"));
  EXPECT_GT(expected.gradients.at("model.state_proj.weight").abs().max().item<double>(), 0.0);
  forget_gradients(*policy);

  std::size_t state_stage = 0;
  while (policy->line()[state_stage].info.name != "state") ++state_stage;
  expect_same(finish(*policy, restart_from(*policy, state_stage, batch, draw), batch, draw), expected);
}

TEST(SmolVLALine, RowsOfImagesAndLanguageDoNotDependOnStateNoiseOrTime) {
  const auto policy = tiny::policy();
  const at::NoGradGuard no_grad;
  Batch batch = tiny::batch();
  PrefixState first = policy->begin(batch);
  run_stages(policy->line(), 0, policy->first_draw_stage(), first);
  batch.tensors["observation.state"] = batch.at("observation.state") + 1.0;
  PrefixState second = policy->begin(batch);
  run_stages(policy->line(), 0, policy->first_draw_stage(), second);
  for (const auto& [key, tensor] : first.tensors()) {
    if (key.rfind("A.", 0) != 0) continue;
    EXPECT_TRUE(bitwise_equal(second.at(key), tensor)) << key;
  }
  EXPECT_FALSE(bitwise_equal(second.at("B.key.3"), first.at("B.key.3")));
}

TEST(SmolVLALine, FloatingTypesOfParametersMayBeMixedAnyhow) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();
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
}  // namespace thaw
