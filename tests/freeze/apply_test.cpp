// A module that obeys its plan, and the proof that it did.
#include "thaw/freeze/apply.h"

#include <torch/optim/adamw.h>

#include <set>

#include "layouts.h"
#include "modules.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/tensor/compare.h"

namespace thaw::apply_test {
namespace {

using test::Block;
using test::message_of;
using test::Model;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

FreezePlan plan_of(const std::string& rules, const torch::nn::Module& module) {
  return LayerFreezePolicy::parse(rules).resolve(module);
}

TEST(ApplyFreeze, RequiresGradIsThePlans) {
  Model model;
  const FreezePlan plan = plan_of("freeze:*,layers=1,train:head.bias", *model);
  apply_freeze(plan, *model);
  for (const auto& item : model->named_parameters()) {
    const bool expected = item.key() == "head.bias" || item.key().rfind("encoder.layers.2.", 0) == 0;
    EXPECT_EQ(item.value().requires_grad(), expected) << item.key();
  }
}

TEST(ApplyFreeze, GradientsOfWhatNoLongerTrainsAreDropped) {
  Model model;
  for (at::Tensor& parameter : model->parameters()) parameter.mutable_grad() = at::ones_like(parameter);
  apply_freeze(plan_of("freeze:*,train:head*", *model), *model);
  for (const auto& item : model->named_parameters()) {
    EXPECT_EQ(item.value().grad().defined(), item.key().rfind("head", 0) == 0) << item.key();
  }
}

TEST(ApplyFreeze, AFreezeCanBeUndone) {
  Model model;
  apply_freeze(plan_of("freeze:*,train:head*", *model), *model);
  apply_freeze(plan_of("train:*", *model), *model);
  for (const at::Tensor& parameter : model->parameters()) EXPECT_TRUE(parameter.requires_grad());
  for (const auto& item : model->named_modules()) EXPECT_TRUE(item.value()->is_training()) << item.key();
}

TEST(ApplyFreeze, FrozenModulesArePinnedToEvalInsideTrainableParents) {
  Model model;
  const FreezePlan plan = plan_of("freeze:*,layers=1,freeze:*norm*,train:head*", *model);
  apply_freeze(plan, *model);
  const auto check = [&model] {
    std::set<std::string> training;
    for (const auto& item : model->named_modules()) {
      if (item.value()->is_training()) training.insert(item.key());
    }
    const std::set<std::string> expected{"",
                                         "encoder",
                                         "encoder.layers",
                                         "encoder.layers.2",
                                         "encoder.layers.2.up",
                                         "encoder.layers.2.down",
                                         "encoder.layers.2.dropout",
                                         "head"};
    EXPECT_EQ(training, expected);
  };
  check();
  model->train();
  pin_eval(plan, *model);
  check();
}

TEST(ApplyFreeze, FrozenModulesGiveTheSameOutputTwice) {
  Model model;
  const FreezePlan plan = plan_of("freeze:*,layers=1", *model);
  apply_freeze(plan, *model);
  const at::Tensor x = at::randn({4, 8});
  auto& frozen = *model->layers[0]->as<Block>();
  EXPECT_TRUE(bitwise_equal(frozen.forward(x), frozen.forward(x)));
  auto& trained = *model->layers[2]->as<Block>();
  EXPECT_FALSE(bitwise_equal(trained.forward(x), trained.forward(x)));
}

TEST(ApplyFreeze, FrozenBatchNormKeepsItsRunningStatistics) {
  Model model;
  FreezePlan plan = plan_of("freeze:tower*", *model);
  apply_freeze(plan, *model);
  add_digests(plan, *model);
  EXPECT_EQ(plan.buffers.size(), 3U);
  EXPECT_EQ(plan.buffers.front().name.rfind("tower", 0), 0U);
  (void)model->tower->forward(at::randn({2, 3, 8, 8}));
  EXPECT_THAT(moved_frozen_parameters(plan, *model), IsEmpty());

  model->train();  // somebody forgot pin_eval
  (void)model->tower->forward(at::randn({2, 3, 8, 8}));
  EXPECT_THAT(
      moved_frozen_parameters(plan, *model),
      testing::UnorderedElementsAre("tower.1.running_mean", "tower.1.running_var", "tower.1.num_batches_tracked"));
}

TEST(ApplyFreeze, ANegativeZeroInAFrozenTensorIsFound) {
  Model model;
  FreezePlan plan = plan_of("freeze:*,train:head*", *model);
  {
    const torch::NoGradGuard no_grad;
    model->embed->weight[3][1] = 0.0;
    add_digests(plan, *model);
    EXPECT_THAT(moved_frozen_parameters(plan, *model), IsEmpty());
    model->embed->weight[3][1] = -0.0;
    model->head->weight[0][0] += 1.0;  // trainable: may move
  }
  EXPECT_THAT(moved_frozen_parameters(plan, *model), ElementsAre("embed.weight"));
}

TEST(ApplyFreeze, RandomFreezesHoldThroughTraining) {
  at::set_num_threads(1);  // these tensors are too small to share
  std::mt19937 random(17);
  torch::manual_seed(17);
  for (int round = 0; round < 8; ++round) {
    Model model(4);
    std::string rules = "freeze:*,train:head.bias,layers=" + std::to_string(random() % 5);
    for (const char* pattern : {"embed*", "*norm*", "*up*", "tower.0*"}) {
      if (random() % 2 == 0) rules += std::string(",") + (random() % 2 == 0 ? "train:" : "freeze:") + pattern;
    }
    SCOPED_TRACE(rules);
    FreezePlan plan = plan_of(rules, *model);
    apply_freeze(plan, *model);
    add_digests(plan, *model);
    torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(0.1).weight_decay(0.5));
    for (int step = 0; step < 5; ++step) {
      model->train();
      pin_eval(plan, *model);
      at::Tensor x = model->embed(at::randint(16, {4, 6}));
      for (const auto& block : *model->layers) x = block->as<Block>()->forward(x);
      at::Tensor loss = model->head(x).pow(2).mean() + model->tower->forward(at::randn({2, 3, 5, 5})).mean();
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
    }
    EXPECT_THAT(moved_frozen_parameters(plan, *model), IsEmpty());
    const auto parameters = model->named_parameters();
    for (const PlannedParameter& planned : plan.parameters) {
      const at::Tensor& parameter = parameters[planned.name];
      const bool trains = planned.parameter_class == ParameterClass::trainable;
      EXPECT_EQ(parameter.grad().defined(), trains && planned.name.find("mm_projector") == std::string::npos)
          << planned.name;
    }
  }
}

TEST(ApplyFreeze, AModuleThatIsNotThePlansIsRefused) {
  const FreezePlan plan = plan_of("", *Model(3));
  const auto error = [&plan](torch::nn::Module& module) {
    return message_of<MismatchError>([&] { apply_freeze(plan, module); });
  };
  Model shorter(2);
  EXPECT_THAT(error(*shorter), AllOf(HasSubstr("expected a parameter 'encoder.layers.2.norm.weight'"),
                                     HasSubstr("encoder.layers.1.norm.weight")));
  Model longer(4);
  EXPECT_THAT(error(*longer), HasSubstr("'encoder.layers.3.norm.weight' besides them"));
  Model other(3);
  other->head->weight = other->head->register_parameter("weight2", at::zeros({2, 8}));
  EXPECT_THAT(error(*other), HasSubstr("'head.weight2' besides them"));
  Model misshapen(3);
  misshapen->embed->weight.set_data(at::zeros({17, 8}));
  EXPECT_THAT(error(*misshapen), HasSubstr("'embed.weight' of shape [16, 8], found [17, 8]"));
  EXPECT_THAT(message_of<MismatchError>([&] { pin_eval(plan, *longer); }), HasSubstr("besides them"));
}

TEST(ApplyFreeze, ComparingWithoutDigestsIsRefused) {
  Model model;
  const FreezePlan plan = plan_of("freeze:embed*", *model);
  EXPECT_THAT(message_of<UsageError>([&] { (void)moved_frozen_parameters(plan, *model); }),
              AllOf(HasSubstr("none of 'embed.weight'"), HasSubstr("add_digests")));
}

/// An embedding and an output projection that are one tensor.
struct TiedImpl : torch::nn::Module {
  TiedImpl() {
    embed = register_module("embed", torch::nn::Embedding(16, 8));
    body = register_module("body", torch::nn::Linear(8, 8));
    head = register_module("head", torch::nn::Linear(torch::nn::LinearOptions(8, 16).bias(false)));
    head->weight = head->register_parameter("tied", embed->weight);
  }
  torch::nn::Embedding embed{nullptr};
  torch::nn::Linear body{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Tied);

TEST(TiedParameters, OneTensorIsCountedOnceAndListedUnderEachName) {
  Tied model;
  const FreezePlan plan = plan_of("", *model);
  EXPECT_EQ(plan.elements(ParameterClass::trainable), 16 * 8 + 8 * 8 + 8 + 16 * 8);
  EXPECT_EQ(plan.tensors(ParameterClass::trainable), 4);
  EXPECT_THAT(plan.names(ParameterClass::trainable),
              ElementsAre("embed.weight", "body.weight", "body.bias", "head.weight", "head.tied"));
  EXPECT_TRUE(plan.trains("head.tied"));
  EXPECT_EQ(plan.parameters.back().same_as, "embed.weight");
  const FreezePlan back = FreezePlan::from_json(plan.to_json(), "p");
  EXPECT_EQ(back.parameters.back().same_as, "embed.weight");
}

TEST(TiedParameters, TheNameThatARuleDecidesTakesTheOtherAlong) {
  Tied model;
  const FreezePlan plan = plan_of("freeze:embed*", *model);
  EXPECT_FALSE(plan.trains("head.tied"));
  apply_freeze(plan, *model);
  EXPECT_FALSE(model->embed->weight.requires_grad());
}

TEST(TiedParameters, RulesThatDisagreeAreRefusedNamingBothNames) {
  Tied model;
  EXPECT_THAT(message_of<UsageError>([&] { (void)plan_of("freeze:embed*,train:head*", *model); }),
              AllOf(HasSubstr("'embed.weight' frozen by 'freeze:embed*'"),
                    HasSubstr("'head.tied' trained by 'train:head*'"), HasSubstr("Train or freeze both.")));
}

TEST(TiedParameters, OneModuleUsedAsSeveralBlocksIsOneTensor) {
  const Block shared(4, 8);
  torch::nn::Module root;
  torch::nn::ModuleList layers;
  for (int i = 0; i < 3; ++i) layers->push_back(shared);
  root.register_module("layers", layers);
  EXPECT_EQ(plan_of("", root).elements(ParameterClass::trainable), 4 + 4 + 32 + 8 + 32 + 4);
  EXPECT_THAT(message_of<UsageError>([&] { (void)plan_of("layers=1", root); }),
              AllOf(HasSubstr("'layers.0.norm.weight' frozen"), HasSubstr("'layers.2.norm.weight' trained")));
}

TEST(TiedParameters, ViewsOfOneBufferAreTiedOnlyWhereTheyOverlap) {
  torch::nn::Module module;
  const at::Tensor flat = at::zeros({12});
  module.register_parameter("a", flat.slice(0, 0, 6));
  module.register_parameter("b", flat.slice(0, 6, 12));
  EXPECT_THAT(plan_of("freeze:a,train:b", module).names(ParameterClass::trainable), ElementsAre("b"));
  module.register_parameter("c", flat.slice(0, 5, 6));
  EXPECT_THAT(message_of<UsageError>([&] { (void)plan_of("freeze:a,train:c", module); }), HasSubstr("'c' trained"));
  EXPECT_FALSE(plan_of("freeze:a", module).trains("c"));
}

}  // namespace
}  // namespace thaw::apply_test
