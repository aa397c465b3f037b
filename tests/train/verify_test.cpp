#include "thaw/train/verify.h"

#include "thaw/core/error.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/trainer.h"
#include "toy.h"

namespace thaw::verify_test {
namespace {

namespace fs = std::filesystem;
using toy::Model;
using toy::Pair;

fs::path trained_run(const toy::Folder& folder, bool (*trains)(const std::string&) = toy::last_block) {
  Model model;
  const fs::path run = folder.path() / "run";
  Trainer trainer(model.ptr(), toy::plan_of(*model, trains),
                  {.steps = 3,
                   .batch_size = 4,
                   .precision = Precision::fp32,
                   .device = at::Device(at::kCPU),
                   .optimizer = {.learning_rate = 1e-2},
                   .output = run,
                   .save_every = 2,
                   .tensorboard = false,
                   .quiet = true});
  trainer.fit(*toy::task_for(model));
  return run;
}

/// Reads the newest checkpoint, lets `edit` change it, and writes it again in place, with a fitting manifest.
template <class Edit>
void rewrite(const fs::path& run, const Edit& edit) {
  const fs::path folder = run / "checkpoints/000003";
  Checkpoint checkpoint = read_checkpoint(folder);
  edit(checkpoint);
  fs::remove_all(folder);
  write_checkpoint(run / "checkpoints", checkpoint);
}

std::vector<std::string> failures(const fs::path& run, const Model& base) {
  std::vector<std::string> all;
  for (const Check& check : verify_run(run, *base).checks)
    all.insert(all.end(), check.failures.begin(), check.failures.end());
  return all;
}

TEST(Verify, HonestRunPassesEveryCheck) {
  const toy::Folder folder;
  const VerifyReport report = verify_run(trained_run(folder), *Model());
  EXPECT_TRUE(report.passed()) << report.text();
  EXPECT_EQ(report.step, 3);
  EXPECT_EQ(report.checks.size(), 9U);
  for (const Check& check : report.checks) EXPECT_GT(check.examined, 0) << check.name;
  EXPECT_NO_THROW(require_verified(report));
  EXPECT_EQ(report.to_json().at("passed"), true);
}

TEST(Verify, AnotherBaseIsNamedTensorByTensor) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  Model other;
  {
    const at::NoGradGuard no_grad;
    other->embed->bias[0] += 1;
  }
  EXPECT_THAT(failures(run, other),
              testing::ElementsAre(testing::StartsWith("embed.bias: the base holds another content")));
}

TEST(Verify, FrozenTensorInTheHeadIsFound) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  rewrite(run, [](Checkpoint& c) { c.head.tensors["embed.bias"] = at::zeros({6}); });
  EXPECT_THAT(failures(run, Model()),
              testing::Contains(testing::HasSubstr("embed.bias: frozen by the plan, but the head replaces it")));
}

TEST(Verify, TrainableTensorThatDidNotMoveIsNamed) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  Model base;
  rewrite(run, [&](Checkpoint& c) { c.head.tensors["head.bias"] = base->head->bias.detach().clone(); });
  EXPECT_THAT(failures(run, base), testing::ElementsAre("head.bias: is still what the base holds"));
}

TEST(Verify, TrainableTensorWithoutGradientIsNamed) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  rewrite(run, [](Checkpoint& c) {
    c.state.gradients["head.bias"] = {.seen = false, .effective = false};
    c.state.gradients["head.weight"] = {.seen = true, .effective = false};
  });
  EXPECT_THAT(failures(run, Model()),
              testing::UnorderedElementsAre("head.bias: never had a gradient",
                                            "head.weight: its gradient was always zero or not finite"));
}

TEST(Verify, FrozenInOptimizerAveragesOrGradientMemoryIsFound) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  rewrite(run, [](Checkpoint& c) {
    c.optimizer["state/embed.weight/exp_avg"] = at::zeros({1});
    c.ema["embed.bias"] = at::zeros({1});
    c.state.frozen_with_gradient = {"blocks.0.up.weight"};
  });
  EXPECT_THAT(failures(run, Model()), testing::UnorderedElementsAre(testing::StartsWith("embed.weight: frozen, but"),
                                                                    testing::StartsWith("embed.bias: frozen, but"),
                                                                    "blocks.0.up.weight: frozen, but held a gradient"));
}

TEST(Verify, ModuleThatWasNotPinnedToEvalIsNamed) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  rewrite(run, [](Checkpoint& c) { c.state.modules_not_in_eval = {"blocks.0"}; });
  EXPECT_THAT(failures(run, Model()), testing::ElementsAre("blocks.0: frozen, but in train mode"));
}

TEST(Verify, NonFiniteWeightIsFound) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  rewrite(run, [](Checkpoint& c) { c.head.tensors["head.bias"][0] = std::numeric_limits<float>::quiet_NaN(); });
  EXPECT_THAT(failures(run, Model()), testing::ElementsAre("head.bias: holds a value that is not finite"));
}

TEST(Verify, DamagedFileEndsTheCheckWithItsName) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  fs::remove(run / "checkpoints/000003/optimizer.safetensors");
  const VerifyReport report = verify_run(run, *Model());
  EXPECT_FALSE(report.passed());
  EXPECT_THAT(toy::message_of<CheckFailed>([&] { require_verified(report); }),
              testing::HasSubstr("optimizer.safetensors is missing"));
}

TEST(Verify, EditedPlanIsFound) {
  const toy::Folder folder;
  const fs::path run = trained_run(folder);
  Json plan = read_json(run / "plan.json");
  FreezePlan edited = FreezePlan::from_json(plan, "plan.json");
  for (PlannedParameter& parameter : edited.parameters) {
    if (parameter.name == "embed.bias") parameter.parameter_class = ParameterClass::trainable;
  }
  toy::overwrite(run / "plan.json", edited.to_json().dump());
  EXPECT_THAT(failures(run, Model()),
              testing::Contains(testing::HasSubstr("embed.bias: trainable, but not in the head")));
}

TEST(Verify, FolderWithoutCheckpointIsRefused) {
  const toy::Folder folder;
  EXPECT_THAT(toy::message_of<IoError>([&] { (void)verify_run(folder.path(), *Model()); }),
              testing::HasSubstr("a checkpoint"));
}

}  // namespace
}  // namespace thaw::verify_test
