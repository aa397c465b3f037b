// The policy as the trainer and the command use it: inputs, draws, loss, sampling.
#include <torch/nn/module.h>

#include <algorithm>

#include "models/tiny_policy.h"
#include "support/temporary_folder.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/models/smolvla/inputs.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/compare.h"

namespace thaw::smolvla_policy_test {
namespace {

template <class Error>
std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(SmolVLAPolicy, DrawsDependOnSeedPurposeStepAndFrameAlone) {
  const auto policy = tiny::policy();
  Batch batch = tiny::batch(3);
  const Draw first = policy->draw(batch, 7, DrawPurpose::training, 5);
  std::reverse(batch.indices.begin(), batch.indices.end());
  const Draw reversed = policy->draw(batch, 7, DrawPurpose::training, 5);
  EXPECT_TRUE(bitwise_equal(first.noise[0], reversed.noise[2]));
  EXPECT_TRUE(bitwise_equal(first.time[0], reversed.time[2]));
  EXPECT_FALSE(bitwise_equal(first.noise[0], first.noise[1]));
  for (const Draw& other :
       {policy->draw(batch, 8, DrawPurpose::training, 5), policy->draw(batch, 7, DrawPurpose::training, 6),
        policy->draw(batch, 7, DrawPurpose::evaluation, 5)}) {
    EXPECT_FALSE(bitwise_equal(reversed.noise, other.noise));
    EXPECT_FALSE(bitwise_equal(reversed.time, other.time));
  }
}

TEST(SmolVLAPolicy, TimesAreBetaDistributedAndNeverZero) {
  const auto policy = tiny::policy();
  Batch batch;
  for (std::int64_t i = 0; i < 4000; ++i) batch.indices.push_back(i);
  const at::Tensor time = policy->draw(batch, 1, DrawPurpose::training, 0).time.to(at::kDouble);
  EXPECT_GT(time.min().item<double>(), 0.001);
  EXPECT_LE(time.max().item<double>(), 1.0);
  // Beta(1.5, 1): mean 0.6, variance 0.06857; five standard errors.
  EXPECT_NEAR(time.mean().item<double>(), 0.999 * 0.6 + 0.001, 5 * std::sqrt(0.06857 / 4000));
  EXPECT_NEAR(time.var().item<double>(), 0.999 * 0.999 * 0.06857, 0.005);
}

TEST(SmolVLAPolicy, ChunkAndDeltasFollowTheConfiguration) {
  const auto policy = tiny::policy();
  EXPECT_EQ(policy->type(), "smolvla");
  EXPECT_EQ(policy->chunk_size(), 8);
  EXPECT_THAT(policy->observation_delta_indices(), testing::ElementsAre(0));
  EXPECT_THAT(policy->action_delta_indices(), testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(SmolVLAPolicy, PaddedStepsDoNotCountAndTheMeanIsOverTheStepsOfTheWholeBatch) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  PrefixState state;
  state.set("velocity", at::zeros({2, 8, 10}));
  Batch changed = batch;
  at::Tensor actions = batch.at("action").clone();
  actions[1].narrow(0, 5, 3).fill_(1e3);
  changed.tensors["action"] = actions;
  const at::Tensor mean = policy->loss(state, batch, draw, Reduction::mean);
  EXPECT_TRUE(bitwise_equal(policy->loss(state, changed, draw, Reduction::mean), mean));
  const at::Tensor per_sample = policy->loss(state, batch, draw, Reduction::none);
  EXPECT_EQ(per_sample.sizes(), at::IntArrayRef({2}));
  const double weighted = (per_sample[0].item<double>() * 8 + per_sample[1].item<double>() * 5) / 13.0;
  EXPECT_NEAR(mean.item<double>(), weighted, 1e-6 * weighted);
}

TEST(SmolVLAPolicy, ABatchWithoutAValidStepHasALossOfZero) {
  const auto policy = tiny::policy();
  Batch batch = tiny::batch();
  batch.tensors["action_is_pad"].fill_(true);
  PrefixState state;
  state.set("velocity", at::ones({2, 8, 10}));
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  EXPECT_EQ(policy->loss(state, batch, draw, Reduction::mean).item<float>(), 0.0F);
  EXPECT_EQ(policy->loss(state, batch, draw, Reduction::none).sum().item<float>(), 0.0F);
}

TEST(SmolVLAPolicy, SamplingDependsOnTheNoiseAloneAndKeepsNoGraph) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  const at::Tensor actions = policy->sample(batch, noise);
  EXPECT_EQ(actions.sizes(), at::IntArrayRef({2, 8, 5}));
  EXPECT_FALSE(actions.requires_grad());
  EXPECT_TRUE(bitwise_equal(policy->sample(batch, noise), actions));
  EXPECT_FALSE(bitwise_equal(policy->sample(batch, tiny::normal(10, {2, 8, 10})), actions));
}

// The same weights with and without adapt_to_pi_aloha.
struct AlohaPair {
  std::shared_ptr<Policy> plain;
  std::shared_ptr<Policy> aloha;
};

AlohaPair aloha_pair() {
  InitOptions options = tiny::options();
  options.state_dim = options.action_dim = 14;
  const testing_support::TemporaryFolder folder;
  AlohaPair pair{.plain = init_policy(options)};
  pair.plain->save_pretrained(folder.path());
  Json config = read_json(folder.path() / "config.json");
  config["adapt_to_pi_aloha"] = true;
  write_text_atomic(folder.path() / "config.json", config.dump());
  pair.aloha = load_policy(folder.path());
  return pair;
}

TEST(SmolVLAPolicy, AlohaStatesAndActionsAreMappedOnTheWayInAndOut) {
  const AlohaPair pair = aloha_pair();
  Batch batch = tiny::batch();
  batch.tensors["observation.state"] = tiny::normal(3, {2, 14}).sigmoid();
  batch.tensors["action"] = tiny::normal(4, {2, 8, 14});
  Batch mapped = batch;
  mapped.tensors["observation.state"] = smolvla::aloha_state_to_pi(batch.at("observation.state"));
  mapped.tensors["action"] = smolvla::aloha_actions_to_pi(batch.at("action"));

  const at::Tensor noise = tiny::normal(9, {2, 8, 14});
  EXPECT_TRUE(
      bitwise_equal(pair.aloha->sample(batch, noise), smolvla::pi_actions_to_aloha(pair.plain->sample(mapped, noise))));

  const Draw draw = pair.plain->draw(batch, 1, DrawPurpose::training, 0);
  const auto loss = [&draw](const Policy& policy, const Batch& inputs) {
    PrefixState state = policy.begin(inputs);
    policy.add_draw(state, inputs, draw);
    run_stages(policy.line(), 0, policy.line().size(), state);
    return policy.loss(state, inputs, draw, Reduction::mean).detach();
  };
  EXPECT_TRUE(bitwise_equal(loss(*pair.aloha, batch), loss(*pair.plain, mapped)));
  EXPECT_FALSE(bitwise_equal(loss(*pair.aloha, batch), loss(*pair.plain, batch)));
}

TEST(SmolVLAPolicy, WhatABatchLacksIsNamed) {
  const auto policy = tiny::policy();
  for (const char* key : {"observation.state", "observation.language.tokens", "observation.language.attention_mask"}) {
    Batch batch = tiny::batch();
    batch.tensors.erase(key);
    EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(policy->begin(batch)); }), testing::HasSubstr(key));
  }
}

TEST(SmolVLAPolicy, TokensBeyondTheVocabularyAreRefusedBeforeTheyAreLookedUp) {
  const auto policy = tiny::policy();
  for (const std::int64_t id : {std::int64_t{-1}, std::int64_t{1024}}) {
    Batch batch = tiny::batch();
    batch.tensors["observation.language.tokens"][0][0] = id;
    EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(policy->begin(batch)); }),
                testing::AllOf(testing::HasSubstr("0..1023"), testing::HasSubstr(std::to_string(id))));
  }
}

TEST(SmolVLAPolicy, NoiseOfAnotherShapeIsRefused) {
  const auto policy = tiny::policy();
  EXPECT_THAT(message_of<MismatchError>([&] {
                static_cast<void>(policy->sample(tiny::batch(), tiny::normal(9, {2, 8, 5})));
              }),
              testing::AllOf(testing::HasSubstr("(2, 8, 10)"), testing::HasSubstr("(2, 8, 5)")));
}

TEST(SmolVLAPolicy, AMaskedCameraDoesNotMatter) {
  const auto policy = tiny::policy();
  Batch batch = tiny::batch();
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  const at::Tensor before = policy->sample(batch, noise);
  batch.tensors["observation.images.wrist"] = 1.0 - batch.at("observation.images.wrist");
  const at::Tensor after = policy->sample(batch, noise);
  EXPECT_FALSE(bitwise_equal(after[0], before[0])) << "the first sample sees the camera";
  EXPECT_TRUE(bitwise_equal(after[1], before[1])) << "the second does not";
}

}  // namespace
}  // namespace thaw::smolvla_policy_test
