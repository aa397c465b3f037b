// pi0 and pi0.5 without some of their blocks, and what their rows hold.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/module.h>

#include "core/throws.h"
#include "models/tiny_pi.h"
#include "support/temporary_folder.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/compare.h"

namespace thaw::pi0_pruned_test {
namespace {

using test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<std::string> kTypes{"pi0", "pi05"};
const BlockLists kSecond{{"language", {1}}, {"expert", {1}}};

/// Makes a block add nothing to its streams.
void silence(Policy& policy, const std::string& stack, std::int64_t block) {
  const at::NoGradGuard no_grad;
  auto parameters = policy.module()->named_parameters();
  for (const ParameterInfo& info : policy.layout().parameters) {
    const bool writes_to_stream =
        info.name.find(".o_proj.") != std::string::npos || info.name.find(".down_proj.") != std::string::npos;
    if (info.stack == stack && info.block == block && writes_to_stream) parameters[info.name].zero_();
  }
}

TEST(PrunedPi0, WithoutABlockThatAddsNothingSamplesTheSameActions) {
  for (const std::string& type : kTypes) {
    const auto policy = tiny::pi_policy(type);
    silence(*policy, "language", 1);
    silence(*policy, "expert", 1);
    const Batch batch = tiny::pi_batch();
    const at::Tensor noise = policy->draw(batch, 1, DrawPurpose::evaluation, 0).noise;
    const Comparison same = compare_tensors(policy->without_blocks(kSecond)->sample(batch, noise),
                                            policy->sample(batch, noise), {.absolute = 1e-6});
    EXPECT_TRUE(same.equal) << type << ": " << same.message;
    const auto other = tiny::pi_policy(type);
    EXPECT_FALSE(compare_tensors(other->without_blocks(kSecond)->sample(batch, noise), other->sample(batch, noise),
                                 {.absolute = 1e-3}))
        << type;
  }
}

TEST(PrunedPi0, IsWhatACheckpointOfTheSmallerSizesIs) {
  for (const std::string& type : kTypes) {
    const auto policy = tiny::pi_policy(type);
    const std::int64_t depth = policy->layout().stack("language").blocks;
    const auto pruned = policy->without_blocks(kSecond);
    const testing_support::TemporaryFolder folder;
    pruned->save_pretrained(folder.path());
    EXPECT_EQ(read_json(folder.path() / "vlm_config.json")["paligemma"]["depth"], depth - 1);
    const auto loaded = load_policy(folder.path());
    EXPECT_EQ(loaded->layout().stack("expert").blocks, depth - 1);
    const Batch batch = tiny::pi_batch();
    const at::Tensor noise = policy->draw(batch, 1, DrawPurpose::evaluation, 0).noise;
    EXPECT_TRUE(bitwise_equal(loaded->sample(batch, noise), pruned->sample(batch, noise))) << type;
  }
}

TEST(PrunedPi0, ExpertLosesWhatTheLanguageModelLoses) {
  EXPECT_THAT(message_of<UsageError>([] {
                static_cast<void>(tiny::pi_policy("pi0")->without_blocks({{"language", {1}}}));
              }),
              HasSubstr("the same places removed from each"));
}

/// Numbers of rows of a group in each sample.
std::vector<std::int64_t> counts(const std::vector<TokenGroup>& groups, const std::string& name) {
  std::vector<std::int64_t> all;
  for (const TokenGroup& group : groups) {
    if (group.name != name) continue;
    for (std::int64_t b = 0; b < group.rows.size(0); ++b) all.push_back(group.rows[b].sum().item<std::int64_t>());
  }
  return all;
}

TEST(Pi0TokenGroups, LeaveOutMissingCamerasPaddedTextItsBeginningAndActionsPastTheEnd) {
  for (const std::string& type : kTypes) {
    const auto policy = tiny::pi_policy(type);
    Batch batch = tiny::pi_batch();  // two of three cameras; the second sample lacks three tokens and three actions
    batch.tensors.at("observation.language.tokens").select(1, 0).fill_(2);
    PrefixState state = policy->begin(batch);
    policy->add_draw(state, batch, policy->draw(batch, 1, DrawPurpose::evaluation, 0));
    run_stages(policy->line(), 0, policy->line().size(), state);
    const std::int64_t tokens = state.at("image_tokens").size(2);
    const auto rows = policy->token_groups("prefix.hidden", state, batch);
    EXPECT_THAT(counts(rows, "image"), ElementsAre(2 * tokens, 2 * tokens)) << type;
    EXPECT_THAT(counts(rows, "text"), ElementsAre(6, 3)) << type;
    EXPECT_THAT(counts(policy->token_groups("suffix.hidden", state, batch), "action"), ElementsAre(8, 5)) << type;
    EXPECT_THAT(counts(policy->token_groups("vision.hidden", state, batch), "image"),
                ElementsAre(2 * tokens, 2 * tokens))
        << type;
    if (type == "pi0") {
      EXPECT_THAT(counts(policy->token_groups("state.hidden", state, batch), "state"), ElementsAre(1, 1));
    }
    for (const StageInfo& stage : policy->layout().line) {
      if (stage.block.stack.empty()) continue;
      const at::Tensor& hidden = state.at(stage.block.stream);
      for (const TokenGroup& group : policy->token_groups(stage.block.stream, state, batch)) {
        EXPECT_EQ(group.rows.size(1), hidden.numel() / (hidden.size(0) * hidden.size(-1))) << type << stage.name;
      }
    }
  }
}

}  // namespace
}  // namespace thaw::pi0_pruned_test
