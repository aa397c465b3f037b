// Stacks of like blocks in modules that thaw has never seen.
#include "thaw/freeze/block_stacks.h"

#include <set>

#include "layouts.h"
#include "modules.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::block_stacks_test {
namespace {

using test::Block;
using test::Model;
using testing::ElementsAre;
using testing::IsEmpty;
using torch::nn::Linear;
using torch::nn::ModuleList;
using torch::nn::ReLU;
using torch::nn::Sequential;

std::vector<std::string> stack_names(const torch::nn::Module& module) {
  std::vector<std::string> names;
  for (const BlockStack& stack : find_block_stacks(module)) {
    names.push_back(stack.name + ":" + std::to_string(stack.blocks));
  }
  return names;
}

TEST(BlockStacks, AListOfLikeBlocksIsAStackUnderItsPath) {
  Model model(3);
  EXPECT_THAT(stack_names(*model), ElementsAre("encoder.layers:3"));
  EXPECT_EQ(find_block_stacks(*model)[0].prefix, "encoder.layers");
}

TEST(BlockStacks, ASequentialOfUnlikeModulesIsNone) {
  EXPECT_THAT(stack_names(*Sequential(Linear(4, 4), ReLU(), Linear(4, 4))), IsEmpty());
  EXPECT_THAT(stack_names(*Sequential(Linear(4, 4), torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})))),
              IsEmpty());
  EXPECT_THAT(stack_names(*Sequential(ReLU(), ReLU())), IsEmpty());
}

TEST(BlockStacks, OneBlockIsNoStack) { EXPECT_THAT(stack_names(*Model(1)), IsEmpty()); }

TEST(BlockStacks, TheRootItselfMayBeAStack) {
  const Sequential root(Block(4, 8), Block(4, 12));
  EXPECT_THAT(stack_names(*root), ElementsAre("blocks:2"));
  const ModelLayout layout = layout_of(*root);
  EXPECT_EQ(layout.parameter("1.up.weight").block, 1);
  EXPECT_EQ(layout.parameter("1.up.weight").stack, "blocks");
}

TEST(BlockStacks, OfNestedStacksTheOutermostCounts) {
  torch::nn::Module root;
  ModuleList outer;
  for (int i = 0; i < 2; ++i) outer->push_back(Sequential(Block(4, 8), Block(4, 8)));
  root.register_module("stages", outer);
  EXPECT_THAT(stack_names(root), ElementsAre("stages:2"));
}

TEST(BlockStacks, UnlikeOuterModulesLeaveTheirInnerStacks) {
  torch::nn::Module root;
  ModuleList outer(Sequential(Block(4, 8), Block(4, 8)), Sequential(Block(4, 8), Block(4, 8), Block(4, 8)));
  root.register_module("stages", outer);
  EXPECT_THAT(stack_names(root), ElementsAre("stages.0:2", "stages.1:3"));
}

TEST(BlockStacks, NumberedChildrenBesideOthersAreAStack) {
  torch::nn::Module root;
  root.register_module("0", Block(4, 8));
  root.register_module("1", Block(4, 8));
  root.register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})));
  EXPECT_THAT(stack_names(root), ElementsAre("blocks:2"));
  EXPECT_EQ(layout_of(root).parameter("norm.weight").stack, "");
}

TEST(BlockStacks, TorchsOwnTransformerHasItsEncoderAndDecoder) {
  torch::nn::Transformer transformer(torch::nn::TransformerOptions(8, 2, 2, 3));
  EXPECT_THAT(stack_names(*transformer), ElementsAre("encoder.layers:2", "decoder.layers:3"));
  const FreezePlan plan = LayerFreezePolicy::parse("encoder=none,decoder=1").resolve(*transformer);
  EXPECT_THAT(plan.stacks[1].trainable_blocks, ElementsAre(2));
}

TEST(LayoutOf, HoldsTheModulesParametersInTheirOrder) {
  Model model(2);
  model->head->weight.set_requires_grad(false);
  const ModelLayout layout = layout_of(*model);
  const auto parameters = model->named_parameters();
  ASSERT_EQ(layout.parameters.size(), parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ(layout.parameters[i].name, parameters[i].key());
    EXPECT_EQ(layout.parameters[i].shape, parameters[i].value().sizes().vec());
    EXPECT_EQ(layout.parameters[i].trainable_by_default, parameters[i].key() != "head.weight");
  }
  EXPECT_EQ(layout.type, "module");
}

TEST(LayoutOf, ADozenBlocksAreToldApart) {
  Model model(12);
  const ModelLayout layout = layout_of(*model);
  EXPECT_EQ(layout.parameter("encoder.layers.1.up.weight").block, 1);
  EXPECT_EQ(layout.parameter("encoder.layers.11.up.weight").block, 11);
}

TEST(LayoutOf, GroupsAreFoundByTypeAndName) {
  const ModelLayout layout = layout_of(*Model(2));
  const auto groups = [&layout](const char* name) { return layout.parameter(name).groups; };
  EXPECT_THAT(groups("encoder.layers.0.norm.bias"), ElementsAre("norms", "biases"));
  EXPECT_THAT(groups("tower.1.weight"), ElementsAre("norms"));
  EXPECT_THAT(groups("embed.weight"), ElementsAre("embeddings"));
  EXPECT_THAT(groups("mm_projector.bias"), ElementsAre("biases", "projectors"));
  EXPECT_THAT(groups("head.weight"), IsEmpty());
}

TEST(LayoutOf, NothingOfAOneStageModuleIsDead) {
  const FreezePlan plan = LayerFreezePolicy::parse("freeze:*,layers=2").resolve(*Model(3));
  EXPECT_THAT(plan.names(ParameterClass::dead), IsEmpty());
  EXPECT_EQ(plan.boundary, 0U);
  EXPECT_EQ(plan.line.size(), 1U);
  EXPECT_THAT(plan.backward_causes, IsEmpty());
}

}  // namespace
}  // namespace thaw::block_stacks_test
