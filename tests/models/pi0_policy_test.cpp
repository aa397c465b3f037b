// pi0 and pi0.5 as the trainer and the command use them: what decides a sample, types, random freezes.
#include <torch/nn/module.h>

#include <cmath>
#include <set>

#include "models/line_checks.h"
#include "models/tiny_pi.h"
#include "support/temporary_folder.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/models/aloha.h"
#include "thaw/tensor/compare.h"

namespace thaw::pi0_policy_test {
namespace {

using line_checks::expect_same;
using line_checks::finish;
using line_checks::forget_gradients;
using line_checks::Outcome;
using line_checks::restart_from;
using line_checks::train_only;

template <class Error>
std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

class PiPolicy : public testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] std::shared_ptr<Policy> policy() const { return tiny::pi_policy(GetParam()); }
  [[nodiscard]] bool is_pi0() const { return GetParam() == "pi0"; }
};

INSTANTIATE_TEST_SUITE_P(Versions, PiPolicy, testing::Values("pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(PiPolicy, IsWhatItsConfigurationSays) {
  const auto policy = this->policy();
  EXPECT_EQ(policy->type(), GetParam());
  EXPECT_EQ(policy->chunk_size(), 8);
  EXPECT_EQ(policy->training_preset().weight_decay, 0.01);
  EXPECT_EQ(policy->line()[policy->first_draw_stage()].info.name, "suffix.embed");
}

TEST_P(PiPolicy, SamplingDependsOnTheNoiseAloneAndKeepsNoGraph) {
  const auto policy = this->policy();
  const Batch batch = tiny::pi_batch();
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  const at::Tensor actions = policy->sample(batch, noise);
  EXPECT_EQ(actions.sizes(), at::IntArrayRef({2, 8, 5}));
  EXPECT_FALSE(actions.requires_grad());
  EXPECT_TRUE(bitwise_equal(policy->sample(batch, noise), actions));
  EXPECT_FALSE(bitwise_equal(policy->sample(batch, tiny::normal(10, {2, 8, 10})), actions));
}

TEST_P(PiPolicy, TheStateReachesTheActionsThroughItsRowInPi0AndThroughTheTextInPi05) {
  const auto policy = this->policy();
  Batch batch = tiny::pi_batch();
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  const at::Tensor before = policy->sample(batch, noise);
  batch.tensors["observation.state"] = batch.at("observation.state") + 1.0;
  EXPECT_EQ(bitwise_equal(policy->sample(batch, noise), before), !is_pi0());
  if (!is_pi0()) batch.tensors.erase("observation.state");
  batch.tensors["observation.language.tokens"][0][0] = 500;
  EXPECT_FALSE(bitwise_equal(policy->sample(batch, noise), before));
}

TEST_P(PiPolicy, PaddedTextAndMissingCamerasDoNotMatter) {
  const auto policy = this->policy();
  Batch batch = tiny::pi_batch();
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  const at::Tensor before = policy->sample(batch, noise);
  batch.tensors["observation.language.tokens"][1].narrow(0, 4, 3).fill_(999);  // masked in this row
  EXPECT_TRUE(bitwise_equal(policy->sample(batch, noise), before));

  InitOptions fewer = tiny::pi_options(GetParam());
  std::erase_if(fewer.cameras, [](const Feature& camera) { return camera.name == tiny::kSide; });
  const at::Tensor without = init_policy(fewer)->sample(batch, noise);  // no filled camera: another number of rows
  EXPECT_TRUE(compare_tensors(without, before, {.absolute = 5e-5}));
}

TEST_P(PiPolicy, ThePrefixDependsOnTheObservationAlone) {
  const auto policy = this->policy();
  const at::NoGradGuard no_grad;
  Batch batch = tiny::pi_batch();
  PrefixState first = policy->begin(batch);
  run_stages(policy->line(), 0, policy->first_draw_stage(), first);
  batch.tensors["observation.state"] = batch.at("observation.state") + 1.0;
  PrefixState second = policy->begin(batch);
  run_stages(policy->line(), 0, policy->first_draw_stage(), second);
  for (const auto& [key, tensor] : first.tensors()) {
    if (!key.starts_with("prefix.")) continue;
    EXPECT_TRUE(bitwise_equal(second.at(key), tensor)) << key;
  }
  if (!is_pi0()) return;
  EXPECT_FALSE(bitwise_equal(second.at("state.key.3"), first.at("state.key.3")));
}

TEST_P(PiPolicy, ATokenOfThePaddingRowIsReadButNeverTrained) {
  const auto policy = this->policy();
  Batch batch = tiny::pi_batch();
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  batch.tensors["observation.language.tokens"][0][0] = 0;  // not masked
  const std::string name = "model.paligemma_with_expert.paligemma.lm_head.weight";
  auto parameters = policy->module()->named_parameters();
  const at::Tensor before = policy->sample(batch, noise);
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  PrefixState state = policy->begin(batch);
  policy->add_draw(state, batch, draw);
  run_stages(policy->line(), 0, policy->line().size(), state);
  policy->loss(state, batch, draw, Reduction::mean).backward();
  const at::Tensor& gradient = parameters[name].grad();
  EXPECT_EQ(gradient[0].abs().max().item<float>(), 0.0F);
  EXPECT_GT(gradient[11].abs().max().item<float>(), 0.0F);
  const at::NoGradGuard no_grad;
  parameters[name][0].add_(1.0);
  EXPECT_FALSE(bitwise_equal(policy->sample(batch, noise), before));
}

// Every frozen weight keeps its bits, and a prefix that was computed apart, with no graph, changes no gradient by a
// bit, whatever is frozen.
TEST_P(PiPolicy, RandomFreezesGiveTheGradientsOfTheJointRunBitForBit) {
  const auto policy = this->policy();
  const Batch batch = tiny::pi_batch();
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  for (std::uint64_t number = 0; number < 8; ++number) {
    SCOPED_TRACE(fmt::format("freeze {}", number));
    std::uint64_t index = 0;
    std::set<std::string> trained{"model.action_out_proj.bias"};
    const double share = number % 2 == 0 ? 0.02 : 0.3;
    for (const ParameterInfo& parameter : policy->layout().parameters) {
      const RandomKey key{.seed = number, .stream = RandomStream::test, .sample = index++};
      if (random_uniform(key, 1).item<double>() < share) trained.insert(parameter.name);
    }
    train_only(*policy, [&trained](const std::string& name) { return trained.contains(name); });
    std::size_t boundary = 0;
    const auto uses_trained = [&trained](const Stage& stage) {
      return std::any_of(stage.info.parameters.begin(), stage.info.parameters.end(),
                         [&trained](const std::string& name) { return trained.contains(name); });
    };
    while (!uses_trained(policy->line()[boundary])) ++boundary;

    PrefixState joint = policy->begin(batch);
    policy->add_draw(joint, batch, draw);
    run_stages(policy->line(), 0, policy->line().size(), joint);
    const Outcome expected = finish(*policy, joint, batch, draw);
    forget_gradients(*policy);
    for (std::size_t cut = 1; cut <= std::min(boundary, policy->first_draw_stage()); cut += 4) {
      expect_same(finish(*policy, restart_from(*policy, cut, batch, draw), batch, draw), expected);
      forget_gradients(*policy);
    }
    for (const auto& [name, gradient] : expected.gradients) EXPECT_TRUE(trained.contains(name)) << name;
  }
}

// Weights rounded to bfloat16 and multiplied in float32, against the same weights in bfloat16: what is left is the
// rounding of activations. A bfloat16 tensor is off by u = 2^-9 of itself; a block rounds about a dozen times one after
// the other (norm, query, key, value, rotation, probabilities, attention, residual, norm, gate, up, down), in both
// streams, and independent roundings add up as the root of their number: r = u · sqrt(12 · 2 · blocks) of the
// velocity's root mean square. Three times that bounds the root mean square of the difference.
TEST_P(PiPolicy, ABfloat16ForwardStaysWithinItsRoundingOfFloat32) {
  const testing_support::TemporaryFolder folder;
  policy()->save_pretrained(folder.path());
  const auto narrow = load_policy(folder.path(), {.dtype = at::kBFloat16});
  const auto wide = load_policy(folder.path(), {.dtype = at::kBFloat16});
  for (auto& parameter : wide->module()->named_parameters()) {
    parameter.value().set_data(parameter.value().detach().to(at::kFloat));
  }
  const at::NoGradGuard no_grad;
  const Batch batch = tiny::pi_batch();
  const Draw draw = narrow->draw(batch, 1, DrawPurpose::training, 0);
  const auto velocity = [&](const Policy& policy) {
    PrefixState state = policy.begin(batch);
    policy.add_draw(state, batch, draw);
    run_stages(policy.line(), 0, policy.line().size(), state);
    return state.at("velocity").to(at::kDouble);
  };
  const at::Tensor expected = velocity(*wide);
  const double scale = expected.square().mean().sqrt().item<double>();
  const double error = (velocity(*narrow) - expected).square().mean().sqrt().item<double>();
  const double bound = 3.0 * std::ldexp(1.0, -9) * std::sqrt(12.0 * 2.0 * 4.0) * scale;
  EXPECT_LT(error, bound);
  EXPECT_GT(error, 0.0);
  std::cout << "[ bfloat16 ] " << GetParam() << ": " << error / scale << " of the velocity, bound " << bound / scale
            << "\n";
}

TEST_P(PiPolicy, AModelOfPublishedTypesIsBfloat16ButItsTowerNormsAndProjectionsAndRoundsItsRotaryFrequencies) {
  InitOptions options = tiny::pi_options(GetParam());
  options.dtypes = InitialDtypes::published;
  const auto narrow = init_policy(options);
  EXPECT_EQ(narrow->config_json()["dtype"], "bfloat16");
  for (const auto& parameter : narrow->module()->named_parameters()) {
    const std::string& name = parameter.key();
    const bool kept = name.find("vision_tower") != std::string::npos || name.find("norm") != std::string::npos ||
                      name.find("multi_modal_projector") != std::string::npos ||
                      name.find("paligemma_with_expert") == std::string::npos;
    EXPECT_EQ(parameter.value().scalar_type(), kept ? at::kFloat : at::kBFloat16) << name;
  }
  const Batch batch = tiny::pi_batch();
  PrefixState rounded = narrow->begin(batch);
  PrefixState exact = policy()->begin(batch);
  const at::NoGradGuard no_grad;
  run_stages(narrow->line(), 0, narrow->first_draw_stage(), rounded);
  run_stages(policy()->line(), 0, policy()->first_draw_stage(), exact);
  EXPECT_FALSE(bitwise_equal(rounded.at("prefix.rotary"), exact.at("prefix.rotary")));
  EXPECT_EQ(rounded.at("prefix.hidden").scalar_type(), at::kBFloat16);
  const at::Tensor actions = narrow->sample(batch, tiny::normal(9, {2, 8, 10}));
  EXPECT_EQ(actions.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::isfinite(actions).all().item<bool>());
}

TEST_P(PiPolicy, WhatABatchLacksIsNamed) {
  const auto policy = this->policy();
  for (const char* key : {"observation.state", "observation.language.tokens", "observation.language.attention_mask"}) {
    Batch batch = tiny::pi_batch();
    batch.tensors.erase(key);
    if (!is_pi0() && std::string(key) == "observation.state") {
      EXPECT_NO_THROW(static_cast<void>(policy->begin(batch)));
      continue;
    }
    EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(policy->begin(batch)); }), testing::HasSubstr(key));
  }
}

TEST_P(PiPolicy, TokensOfAnotherVocabularyAreRefusedBeforeTheyAreLookedUp) {
  Batch batch = tiny::pi_batch();
  batch.tensors["observation.language.tokens"][0][0] = 1024;
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(policy()->begin(batch)); }),
              testing::AllOf(testing::HasSubstr("0..1023"), testing::HasSubstr("tokenizer")));
}

TEST_P(PiPolicy, NoiseOfAnotherShapeIsRefused) {
  EXPECT_THAT(message_of<MismatchError>([&] {
                static_cast<void>(policy()->sample(tiny::pi_batch(), tiny::normal(9, {2, 8, 5})));
              }),
              testing::AllOf(testing::HasSubstr("(2, 8, 10)"), testing::HasSubstr("(2, 8, 5)")));
}

TEST(Pi0Aloha, StatesAndActionsAreMappedOnTheWayInAndOut) {
  InitOptions options = tiny::pi_options("pi0");
  options.state_dim = options.action_dim = 14;
  const testing_support::TemporaryFolder folder;
  const auto plain = init_policy(options);
  plain->save_pretrained(folder.path());
  Json config = read_json(folder.path() / "config.json");
  config["adapt_to_pi_aloha"] = true;
  write_text_atomic(folder.path() / "config.json", config.dump());
  const auto aloha = load_policy(folder.path());

  Batch batch = tiny::pi_batch();
  batch.tensors["observation.state"] = tiny::normal(3, {2, 14}).sigmoid();
  Batch mapped = batch;
  mapped.tensors["observation.state"] = aloha_state_to_pi(batch.at("observation.state"));
  const at::Tensor noise = tiny::normal(9, {2, 8, 14});
  EXPECT_TRUE(bitwise_equal(aloha->sample(batch, noise), pi_actions_to_aloha(plain->sample(mapped, noise))));
}

}  // namespace
}  // namespace thaw::pi0_policy_test
