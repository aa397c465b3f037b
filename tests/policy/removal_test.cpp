#include "thaw/policy/removal.h"

#include <torch/nn/module.h>

#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"

namespace thaw::removal_test {
namespace {

using test::message_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using Blocks = std::vector<std::int64_t>;

/// A tower of three blocks, and a deep and a shallow stack that meet at every second block of the deep one.
ModelLayout model() {
  ModelLayout layout{.type = "toy",
                     .stacks = {{.name = "tower", .prefix = "a.tower", .blocks = 3},
                                {.name = "deep", .prefix = "b.deep", .blocks = 8, .joined = "depth", .period = 2},
                                {.name = "shallow", .prefix = "b.shallow", .blocks = 4, .joined = "depth"}}};
  layout.parameters.push_back({.name = "a.start"});
  for (const BlockStack& stack : layout.stacks) {
    for (std::int64_t block = 0; block < stack.blocks; ++block) {
      layout.parameters.push_back({.name = stack.prefix + "." + std::to_string(block) + ".weight",
                                   .shape = {2},
                                   .stack = stack.name,
                                   .block = block});
    }
  }
  return layout;
}

std::string refusal(const BlockLists& removed) {
  return message_of<UsageError>([&] { check_removal(model(), removed); });
}

TEST(JoinedStacks, AreFoundFromEachOfThem) {
  for (const char* name : {"deep", "shallow"}) {
    const std::vector<BlockStack> joined = joined_stacks(model(), name);
    ASSERT_EQ(joined.size(), 2U);
    EXPECT_EQ(joined[0].name + joined[1].name, "deepshallow");
    EXPECT_EQ(removable_units(model(), name), 4);
  }
  EXPECT_EQ(joined_stacks(model(), "tower").size(), 1U);
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(joined_stacks(model(), "towr")); }),
              HasSubstr("Did you mean 'tower'?"));
}

TEST(BlocksOfUnits, AreSortedAndCoverEveryJoinedStack) {
  const BlockLists blocks = blocks_of_units(model(), "shallow", Blocks{3, 1, 3});
  EXPECT_THAT(blocks.at("deep"), ElementsAre(2, 3, 6, 7));
  EXPECT_THAT(blocks.at("shallow"), ElementsAre(1, 3));
  EXPECT_NO_THROW(check_removal(model(), blocks));
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(blocks_of_units(model(), "deep", Blocks{4})); }),
              HasSubstr("expected numbers in 0..3, found 4"));
}

TEST(KeepsPeriod, AsksEveryBlockLeftForItsKind) {
  EXPECT_TRUE(keeps_period(Blocks{0, 3, 4, 7, 8, 9, 10, 11, 12, 13}, 2));  // SmolVLA without 1,2,5,6,14,15
  EXPECT_FALSE(keeps_period(Blocks{0, 2}, 2));
  EXPECT_TRUE(keeps_period(Blocks{0, 1, 5}, 3));
  EXPECT_TRUE(keeps_period(Blocks{3, 7}, 1));
}

TEST(CheckRemoval, NamesWhatIsWrong) {
  EXPECT_THAT(refusal({{"towr", {0}}}), HasSubstr("Did you mean 'tower'?"));
  EXPECT_THAT(refusal({{"tower", {3}}}), HasSubstr("blocks of 'tower': expected numbers in 0..2, found 3"));
  EXPECT_THAT(refusal({{"tower", {1, 1}}}), HasSubstr("expected ascending numbers, each once, found 1,1"));
  EXPECT_THAT(refusal({{"tower", {0, 1, 2}}}), HasSubstr("at least one block left, found all 3 removed"));
  EXPECT_THAT(refusal({{"shallow", {1}}}), HasSubstr("the same places removed from each (deep: 2,3; shallow: 1)"));
  EXPECT_THAT(refusal({{"deep", {2}}, {"shallow", {1}}}), HasSubstr("found deep: 2; shallow: 1"));
}

TEST(CheckRemoval, BlockThatWouldChangeItsKindIsRefused) {
  ModelLayout layout = model();
  layout.stacks[0].period = 2;
  EXPECT_THAT(message_of<UsageError>([&] {
                check_removal(layout, {{"tower", {1}}});
              }),
              AllOf(HasSubstr("stack 'tower'"), HasSubstr("period of 2"), HasSubstr("found 1 removed")));
  EXPECT_NO_THROW(check_removal(layout, {{"tower", {2}}}));
}

TEST(RemainingWeights, HaveTheNamesOfTheSmallerModelAndTheirOldValues) {
  const ModelLayout layout = model();
  torch::nn::Module module;
  const auto child = [](torch::nn::Module& parent, const std::string& name) {
    return parent.register_module(name, std::make_shared<torch::nn::Module>());
  };
  const auto a = child(module, "a");
  const auto b = child(module, "b");
  a->register_parameter("start", at::zeros({}));
  for (const auto& [parent, name, count] :
       {std::tuple(a, "tower", 3), std::tuple(b, "deep", 8), std::tuple(b, "shallow", 4)}) {
    const auto stack = child(*parent, name);
    for (int block = 0; block < count; ++block) {
      child(*stack, std::to_string(block))->register_parameter("weight", at::full({2}, static_cast<double>(block)));
    }
  }
  const BlockLists removed{{"tower", {0}}, {"deep", {2, 3}}, {"shallow", {1}}};
  const std::vector<NamedTensor> weights = remaining_weights(layout, module, removed);
  std::map<std::string, double> values;
  for (const NamedTensor& weight : weights) values[weight.name] = weight.tensor.view(-1)[0].item<double>();
  ASSERT_EQ(values.size(), 1U + 2U + 6U + 3U);
  EXPECT_EQ(values.at("a.tower.0.weight"), 1);
  EXPECT_EQ(values.at("b.deep.1.weight"), 1);
  EXPECT_EQ(values.at("b.deep.2.weight"), 4);
  EXPECT_EQ(values.at("b.shallow.2.weight"), 3);

  module.named_parameters()["a.start"].detach().fill_(7);
  EXPECT_TRUE(compare_tensors(weights.front().tensor, at::zeros({})));  // a copy
}

TEST(RemainingWeights, WeightWhoseMemoryWasGivenUpIsRefused) {
  ModelLayout layout{.type = "toy", .parameters = {{.name = "w", .shape = {4}}}};
  torch::nn::Module module;
  at::Tensor& weight = module.register_parameter("w", at::ones({4}));
  weight.set_data(at::ones({1}).expand({4}));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(remaining_weights(layout, module, {})); }),
              HasSubstr("Load the policy anew"));
}

}  // namespace
}  // namespace thaw::removal_test
