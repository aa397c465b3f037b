#include "thaw/freeze/adapter_rules.h"

#include "layouts.h"
#include "thaw/core/error.h"
#include "thaw/policy/adapters.h"

namespace thaw::adapter_rules_test {
namespace {

using test::message_of;
using test::MiniVla;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

std::vector<Adapter> chosen(const std::string& rules, const LayerFreezePolicy& full_rank = {}) {
  return choose_adapters(MiniVla().layout, parse_adapter_rules(rules), full_rank);
}

std::vector<std::string> linears(const std::vector<Adapter>& adapters) {
  std::vector<std::string> names;
  for (const Adapter& adapter : adapters) names.push_back(adapter.linear);
  return names;
}

FreezePlan plan_beside(const std::vector<Adapter>& adapters, const LayerFreezePolicy& full_rank = {}) {
  return freeze_beside_adapters(full_rank).resolve(with_adapters(MiniVla().layout, adapters));
}

TEST(AdapterRules, NameBlocksAndTargetsAsAFreezeDoes) {
  EXPECT_THAT(linears(chosen("language=2,rank=2,targets=k_proj")),
              ElementsAre("model.text.layers.2.k_proj", "model.text.layers.3.k_proj"));
  EXPECT_THAT(linears(chosen("expert=[0,2],rank=2")),
              ElementsAre("model.expert.layers.0.mlp", "model.expert.layers.2.mlp"));
  EXPECT_THAT(linears(chosen("train:*action_out*,rank=1")), ElementsAre("model.action_out"));
  EXPECT_THAT(linears(chosen("language=[0],rank=2,targets=layers.0.q_proj+mlp")),
              ElementsAre("model.text.layers.0.q_proj", "model.text.layers.0.mlp"));
}

TEST(AdapterRules, SettingsReachTheAdapters) {
  EXPECT_THAT(
      chosen("expert=1 , rank = 4, alpha=2.5, type=dora"),
      ElementsAre(Adapter{.linear = "model.expert.layers.3.mlp", .rank = 4, .alpha = 2.5, .weight_decomposed = true}));
  EXPECT_THAT(
      chosen("expert=1,rank=4,type=rslora"),
      ElementsAre(Adapter{.linear = "model.expert.layers.3.mlp", .rank = 4, .alpha = 4.0, .rank_stabilised = true}));
}

TEST(AdapterRules, TheLaterOfTwoRulesForALayerCounts) {
  const std::vector<Adapter> adapters = chosen("expert=all,rank=2; expert=1,rank=3");
  ASSERT_THAT(adapters, SizeIs(4));
  EXPECT_EQ(adapters[0].rank, 2);
  EXPECT_EQ(adapters[3].rank, 3);
}

TEST(AdapterRules, LayersThatCanNeverLearnGetNone) {
  // Nothing reads the query and the MLP of the last language block.
  EXPECT_THAT(linears(chosen("language=all,rank=2")), Not(testing::Contains("model.text.layers.3.q_proj")));
}

TEST(AdapterRules, BesideThemNothingOfTheModelTrains) {
  const std::vector<Adapter> adapters = chosen("language=all,rank=2");
  const FreezePlan plan = plan_beside(adapters);
  EXPECT_THAT(plan.names(ParameterClass::trainable), SizeIs(2 * adapters.size()));
  for (const std::string& name : plan.names(ParameterClass::trainable)) EXPECT_TRUE(is_adapter_parameter(name)) << name;
}

TEST(AdapterRules, WhatTrainsAtFullRankGetsNone) {
  const LayerFreezePolicy last = LayerFreezePolicy::parse("expert=1");
  const std::vector<Adapter> adapters = chosen("expert=all,rank=2", last);
  EXPECT_THAT(linears(adapters),
              ElementsAre("model.expert.layers.0.mlp", "model.expert.layers.1.mlp", "model.expert.layers.2.mlp"));
  const FreezePlan plan = plan_beside(adapters, last);
  EXPECT_TRUE(plan.trains("model.expert.layers.3.mlp.weight"));
  EXPECT_TRUE(plan.trains("model.expert.layers.3.norm.weight"));
  EXPECT_FALSE(plan.trains("model.expert.layers.2.mlp.weight"));
  EXPECT_TRUE(plan.trains("model.expert.layers.2.mlp.lora_B.weight"));
}

TEST(AdapterRules, TheFirstAdapterIsWhereBackwardEnds) {
  const FreezePlan deep = plan_beside(chosen("language=[1],rank=2"));
  EXPECT_EQ(deep.line.at(deep.boundary).name, "A.language.1");
  const FreezePlan shallow = plan_beside(chosen("expert=1,rank=2"));
  EXPECT_EQ(shallow.line.at(shallow.boundary).name, "expert.3");
}

TEST(AdapterRules, ThatCannotBeMeantAreRefused) {
  const auto refusal = [](const std::string& rules, const LayerFreezePolicy& full_rank = {}) {
    return message_of<UsageError>([&] { static_cast<void>(chosen(rules, full_rank)); });
  };
  EXPECT_THAT(refusal("rank=4"), HasSubstr("expected blocks or layers to adapt"));
  EXPECT_THAT(refusal("language=all,rank=0"), HasSubstr("rank: expected a whole number of at least 1, found '0'"));
  EXPECT_THAT(refusal("language=all,rank=four"), HasSubstr("found 'four'"));
  EXPECT_THAT(refusal("language=all,alpha=-1"), HasSubstr("alpha: expected a positive number, found '-1'"));
  EXPECT_THAT(refusal("language=all,type=vera"), HasSubstr("type: expected lora, rslora or dora, found 'vera'"));
  EXPECT_THAT(refusal("language=all,targets=k_porj"), HasSubstr("Did you mean 'k_proj'"));
  EXPECT_THAT(refusal("langage=all"), HasSubstr("Did you mean 'language'?"));
  EXPECT_THAT(refusal("language=all,rank=64"),
              HasSubstr("rank: expected 1 to 6, the smaller side of the weight, found 64"));
  EXPECT_THAT(refusal("expert=1,rank=2", LayerFreezePolicy::parse("expert=all")),
              HasSubstr("expected at least one linear layer that stays frozen"));
}

}  // namespace
}  // namespace thaw::adapter_rules_test
