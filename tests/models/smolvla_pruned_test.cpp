// SmolVLA without some of its blocks, and what its rows hold.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/module.h>

#include <algorithm>

#include "core/throws.h"
#include "models/tiny_policy.h"
#include "support/temporary_folder.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/models/smolvla/layout.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/compare.h"

namespace thaw::smolvla_pruned_test {
namespace {

using test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;

const BlockLists kMiddle{{"language", {1, 2}}, {"expert", {1, 2}}};

std::vector<std::string> names_of(const ModelLayout& layout) {
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : layout.parameters) names.push_back(parameter.name);
  return names;
}

/// Makes a block add nothing to its stream.
void silence(Policy& policy, const std::string& stack, std::int64_t block) {
  const at::NoGradGuard no_grad;
  auto parameters = policy.module()->named_parameters();
  for (const ParameterInfo& info : policy.layout().parameters) {
    const bool writes_to_stream =
        info.name.find(".o_proj.") != std::string::npos || info.name.find(".down_proj.") != std::string::npos ||
        info.name.find(".out_proj.") != std::string::npos || info.name.find(".fc2.") != std::string::npos;
    if (info.stack == stack && info.block == block && writes_to_stream) parameters[info.name].zero_();
  }
}

TEST(PrunedSmolVLA, WithoutBlocksThatAddNothingSamplesTheSameActions) {
  const auto policy = tiny::policy();
  for (const std::int64_t block : {1, 2}) {
    silence(*policy, "language", block);
    silence(*policy, "expert", block);
  }
  silence(*policy, "vision", 0);
  BlockLists removed = kMiddle;
  removed["vision"] = {0};
  const auto pruned = policy->without_blocks(removed);
  const Batch batch = tiny::batch();
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  const Comparison same =
      compare_tensors(pruned->sample(batch, noise), policy->sample(batch, noise), {.absolute = 1e-6});
  EXPECT_TRUE(same.equal) << same.message;
  // and blocks that do add something are missed
  const auto other = tiny::policy();
  EXPECT_FALSE(compare_tensors(other->without_blocks(kMiddle)->sample(batch, noise), other->sample(batch, noise),
                               {.absolute = 1e-3}));
}

TEST(PrunedSmolVLA, IsWhatACheckpointOfTheSmallerConfigurationIs) {
  const auto pruned = tiny::policy()->without_blocks(kMiddle);
  const testing_support::TemporaryFolder folder;
  pruned->save_pretrained(folder.path());
  const Json config = read_json(folder.path() / "config.json");
  EXPECT_EQ(config["num_vlm_layers"], 2);
  EXPECT_EQ(config["num_expert_layers"], -1);  // as many as the language model has
  const auto loaded = load_policy(folder.path());
  EXPECT_EQ(names_of(loaded->layout()), names_of(pruned->layout()));
  EXPECT_EQ(loaded->layout().stack("expert").blocks, 2);
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  EXPECT_TRUE(bitwise_equal(loaded->sample(tiny::batch(), noise), pruned->sample(tiny::batch(), noise)));
}

TEST(PrunedSmolVLA, OfALoadedCheckpointWritesItsNumbersOfLayersAndKeepsUnknownFields) {
  const testing_support::TemporaryFolder folder;
  tiny::policy()->save_pretrained(folder.path());
  Json config = read_json(folder.path() / "config.json");
  config["num_expert_layers"] = 4;
  config["of_another_version"] = "kept";
  std::ofstream(folder.path() / "config.json") << config.dump();
  const auto pruned = load_policy(folder.path())->without_blocks(kMiddle);
  const Json written = pruned->config_json();
  EXPECT_EQ(written["num_vlm_layers"], 2);
  EXPECT_EQ(written["num_expert_layers"], 2);
  EXPECT_EQ(written["of_another_version"], "kept");
}

TEST(PrunedSmolVLA, SelfAndCrossAttentionKeepTheirTurn) {
  const auto policy = tiny::policy();
  const auto refusal = [&policy](const BlockLists& removed) {
    return message_of<UsageError>([&] { static_cast<void>(policy->without_blocks(removed)); });
  };
  EXPECT_THAT(refusal({{"language", {1}}, {"expert", {1}}}), HasSubstr("period of 2"));
  EXPECT_THAT(refusal({{"language", {1, 2}}}), HasSubstr("the same places removed from each"));
  EXPECT_NO_THROW(static_cast<void>(policy->without_blocks({{"language", {3}}, {"expert", {3}}})));
}

TEST(PrunedSmolVLA, DoesNotShareWeightsWithTheWholePolicy) {
  const auto policy = tiny::policy();
  const auto pruned = policy->without_blocks(kMiddle);
  const at::Tensor before = pruned->module()->parameters().front().detach().clone();
  const at::NoGradGuard no_grad;
  policy->module()->parameters().front().zero_();
  EXPECT_TRUE(bitwise_equal(pruned->module()->parameters().front().detach(), before));
}

TEST(SmolVLALayout, EveryBlockOfAStackIsMarkedWithTheStreamItAddsTo) {
  const auto policy = tiny::policy();
  std::map<std::string, std::vector<std::int64_t>> blocks;
  for (const StageInfo& stage : policy->layout().line) {
    if (stage.block.stack.empty()) continue;
    blocks[stage.block.stack + " " + stage.block.stream].push_back(stage.block.block);
    EXPECT_TRUE(std::find(stage.reads.begin(), stage.reads.end(), stage.block.stream) != stage.reads.end())
        << stage.name;
  }
  EXPECT_THAT(blocks.at("vision vision.hidden"), ElementsAre(0, 1));
  EXPECT_THAT(blocks.at("language A.hidden"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(blocks.at("language B.hidden"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(blocks.at("expert suffix.hidden"), ElementsAre(0, 1, 2, 3));
}

/// Numbers of rows of each group and sample.
std::map<std::string, std::vector<std::int64_t>> counts(const std::vector<TokenGroup>& groups) {
  std::map<std::string, std::vector<std::int64_t>> all;
  for (const TokenGroup& group : groups) {
    for (std::int64_t b = 0; b < group.rows.size(0); ++b) {
      all[group.name].push_back(group.rows[b].sum().item<std::int64_t>());
    }
  }
  return all;
}

TEST(SmolVLATokenGroups, LeaveOutMaskedCamerasPaddedTextAndActionsPastTheEnd) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();  // the second sample lacks a camera, three tokens and three actions
  PrefixState state = policy->begin(batch);
  policy->add_draw(state, batch, policy->draw(batch, 1, DrawPurpose::evaluation, 0));
  run_stages(policy->line(), 0, policy->line().size(), state);

  const std::int64_t patches = state.at("vision.hidden").size(2);
  const std::int64_t tokens = state.at("image_tokens").size(2);
  EXPECT_THAT(counts(policy->token_groups("vision.hidden", state, batch)).at("image"),
              ElementsAre(2 * patches, patches));
  const auto rows = counts(policy->token_groups("A.hidden", state, batch));
  EXPECT_THAT(rows.at("image"), ElementsAre(2 * tokens, tokens));
  EXPECT_THAT(rows.at("text"), ElementsAre(7, 4));
  EXPECT_THAT(counts(policy->token_groups("B.hidden", state, batch)).at("state"), ElementsAre(1, 1));
  EXPECT_THAT(counts(policy->token_groups("suffix.hidden", state, batch)).at("action"), ElementsAre(8, 5));
  for (const std::string stream : {"vision.hidden", "A.hidden", "B.hidden", "suffix.hidden"}) {
    const at::Tensor& hidden = state.at(stream);
    for (const TokenGroup& group : policy->token_groups(stream, state, batch)) {
      EXPECT_EQ(group.rows.size(1), hidden.numel() / (hidden.size(0) * hidden.size(-1))) << stream << group.name;
    }
  }
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(policy->token_groups("velocity", state, batch)); }),
              HasSubstr("a residual stream of SmolVLA"));
}

}  // namespace
}  // namespace thaw::smolvla_pruned_test
