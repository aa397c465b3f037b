// What frozen means, over random small modules and random freezes: nothing frozen moves, and freezing changes nothing
// else.
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/tensor/compare.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/precision.h"
#include "thaw/train/trainer.h"
#include "thaw/train/verify.h"
#include "toy.h"

namespace thaw::freeze_invariants_test {
namespace {

using toy::Model;
using toy::Pair;

struct RandomCase {
  toy::ModelOptions model;
  std::function<bool(const std::string&)> trains;
  TrainOptions options;
};

double uniform(std::uint64_t number, std::uint64_t what) {
  return random_uniform({.seed = 2024, .stream = RandomStream::test, .step = number, .sample = what}, 1).item<double>();
}

/// Small enough for a key of the random numbers.
std::uint64_t hash_of(const std::string& name) { return std::hash<std::string>{}(name) >> 20; }

RandomCase random_case(std::uint64_t number, const std::filesystem::path& output) {
  const auto pick = [&](std::uint64_t what, std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(uniform(number, what) * static_cast<double>(high - low + 1));
  };
  RandomCase c;
  c.model = {.width = pick(1, 3, 8), .blocks = pick(2, 1, 4), .batch_norm = pick(3, 0, 1) == 1, .seed = number + 1};
  const double share = uniform(number, 4);
  c.trains = [=](const std::string& name) { return name == "head.bias" || uniform(number, hash_of(name)) < share; };
  c.options = {.steps = 25,
               .batch_size = 4,
               .accumulation = pick(5, 1, 2),
               .precision = pick(6, 0, 3) == 0 ? Precision::bf16 : Precision::fp32,
               .device = at::Device(at::kCPU),
               .optimizer = {.learning_rate = 1e-2, .weight_decay = 0.1},
               .grad_clip_norm = 0.5,
               .ema = {.enable = true},
               .output = output,
               .save_every = 0,
               .tensorboard = false,
               .quiet = true};
  return c;
}

/// Trains to `steps` with one poisoned step on the way, in a fresh module; gives the module back.
Model train(const RandomCase& c, std::int64_t steps, bool resume) {
  Model model(c.model);
  TrainOptions options = c.options;
  options.steps = steps;
  options.resume = resume;
  Trainer trainer(model.ptr(), toy::plan_of(*model, c.trains), options);
  const auto task = make_task<std::pair<std::int64_t, Pair>>(
      [](std::int64_t number) { return std::pair(number, toy::pair(number)); },
      [model](const std::pair<std::int64_t, Pair>& numbered) mutable {
        const at::Tensor loss = at::mse_loss(model->forward(numbered.second.x), numbered.second.y);
        return numbered.first == 7 ? loss * std::numeric_limits<double>::infinity() : loss;
      });
  trainer.fit(*task);
  EXPECT_EQ(trainer.skipped_steps(), 1);
  EXPECT_TRUE(frozen_with_gradient(trainer.plan(), *model).empty());
  EXPECT_TRUE(modules_not_in_eval(trainer.plan(), *model).empty());
  return model;
}

TEST(FreezeInvariants, NothingFrozenMovesInFiftyStepsWithDecayClipAveragesASkippedStepAndAResume) {
  for (std::uint64_t number = 0; number < 12; ++number) {
    SCOPED_TRACE(fmt::format("case {}", number));
    const toy::Folder folder;
    const RandomCase c = random_case(number, folder.path() / "run");
    (void)train(c, 25, false);
    Model after = train(c, 50, true);
    Model base(c.model);
    const FreezePlan plan = toy::plan_of(*base, c.trains);
    Model held(c.model);
    cast_parameters(plan, *held, c.options.precision);  // how a run holds what is frozen
    const auto now = toy::copy_of(*after);
    for (const auto& item : held->named_parameters()) {
      if (plan.trains(item.key())) continue;
      EXPECT_BITWISE_EQUAL(now.at(item.key()), item.value().detach()) << item.key();
    }
    const Checkpoint last = read_checkpoint(folder.path() / "run/checkpoints/000050");
    for (const std::string& name : plan.names(ParameterClass::frozen)) {
      EXPECT_FALSE(last.head.tensors.contains(name)) << name;
      EXPECT_FALSE(last.optimizer.contains("state/" + name + "/exp_avg")) << name;
      EXPECT_FALSE(last.ema.contains(name)) << name;
    }
    const VerifyReport report = verify_run(folder.path() / "run", *base);
    EXPECT_TRUE(report.passed()) << report.text();
  }
}

TEST(FreezeInvariants, FrozenRunningStatisticsDoNotDrift) {
  const toy::Folder folder;
  Model model(toy::ModelOptions{.batch_norm = true});
  const auto before = toy::copy_of(*model);
  TrainOptions options = random_case(0, {}).options;
  options.output.clear();
  options.precision = Precision::fp32;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  trainer.fit(*toy::task_for(model));
  const auto after = toy::copy_of(*model);
  EXPECT_BITWISE_EQUAL(after.at("batch_norm.running_mean"), before.at("batch_norm.running_mean"));
  EXPECT_BITWISE_EQUAL(after.at("batch_norm.num_batches_tracked"), before.at("batch_norm.num_batches_tracked"));
}

/// Gradients of one batch with only `trains` requiring them.
std::map<std::string, at::Tensor> gradients(Model model, const std::function<bool(const std::string&)>& trains,
                                            bool prefix_without_grad) {
  for (auto& item : model->named_parameters()) item.value().set_requires_grad(trains(item.key()));
  const Pair pair = toy::pair(0);
  at::Tensor hidden;
  {
    const at::AutoGradMode mode(!prefix_without_grad);
    hidden = model->embed->forward(pair.x);
    hidden = model->blocks[0]->as<toy::Block>()->forward(hidden);
    hidden = model->blocks[1]->as<toy::Block>()->forward(hidden);
  }
  hidden = model->blocks[2]->as<toy::Block>()->forward(hidden);
  at::mse_loss(model->head->forward(hidden), pair.y).backward();
  std::map<std::string, at::Tensor> result;
  for (const auto& item : model->named_parameters()) {
    if (trains(item.key())) result[item.key()] = item.value().grad();
  }
  return result;
}

TEST(FreezeInvariants, PrefixWithoutGradGivesTheGradientsOfTheFullGraph) {
  const auto full = gradients(Model(), toy::everything, false);
  const auto frozen = gradients(Model(), toy::last_block, true);
  ASSERT_FALSE(frozen.empty());
  for (const auto& [name, gradient] : frozen) EXPECT_BITWISE_EQUAL(gradient, full.at(name)) << name;
}

TEST(FreezeInvariants, NormAndClipUseTrainableGradientsOnly) {
  const auto expected = gradients(Model(), toy::last_block, true);
  double squares = 0.0;
  for (const auto& entry : expected) squares += entry.second.to(at::kDouble).square().sum().item<double>();
  Model model;
  TrainOptions options = random_case(0, {}).options;
  options.output.clear();
  options.accumulation = 1;
  options.precision = Precision::fp32;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  EXPECT_NEAR(trainer.step(*toy::task_for(model)).grad_norm(), std::sqrt(squares), 1e-6 * std::sqrt(squares));
}

TEST(FreezeInvariants, RulesOnAModuleOfTheUserReachTheTrainer) {
  Model model;
  const FreezePlan plan = LayerFreezePolicy{}.last("blocks", 1).freeze("embed.*").resolve(*model);
  TrainOptions options = random_case(0, {}).options;
  options.output.clear();
  options.precision = Precision::fp32;
  const auto before = toy::copy_of(*model);
  Trainer trainer(model.ptr(), plan, options);
  trainer.fit(*toy::task_for(model));
  const auto after = toy::copy_of(*model);
  EXPECT_BITWISE_EQUAL(after.at("blocks.1.up.weight"), before.at("blocks.1.up.weight"));
  EXPECT_BITWISE_EQUAL(after.at("embed.weight"), before.at("embed.weight"));
  EXPECT_FALSE(bitwise_equal(after.at("blocks.2.up.weight"), before.at("blocks.2.up.weight")));
}

}  // namespace
}  // namespace thaw::freeze_invariants_test
