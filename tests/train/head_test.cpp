#include "thaw/train/head.h"

#include "thaw/core/error.h"
#include "thaw/freeze/apply.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/trainer.h"
#include "toy.h"

namespace thaw::head_test {
namespace {

namespace fs = std::filesystem;
using toy::Model;

/// Trains a few steps and saves the head.
fs::path trained_head(const toy::Folder& folder, Model model) {
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block),
                  {.steps = 3,
                   .batch_size = 4,
                   .precision = Precision::fp32,
                   .device = at::Device(at::kCPU),
                   .optimizer = {.learning_rate = 1e-2},
                   .quiet = true});
  trainer.fit(*toy::task_for(model));
  trainer.save_head(folder.path() / "head");
  return folder.path() / "head" / "head.safetensors";
}

TEST(Head, PutOntoItsBaseGivesTheTrainedModule) {
  const toy::Folder folder;
  Model trained;
  const fs::path file = trained_head(folder, trained);
  Model fresh;
  load_head(*fresh, file);
  const auto expected = toy::copy_of(*trained);
  for (const auto& [name, tensor] : toy::copy_of(*fresh)) EXPECT_BITWISE_EQUAL(tensor, expected.at(name)) << name;
}

TEST(Head, HoldsOnlyWhatWasTrained) {
  const toy::Folder folder;
  Model model;
  const Head head = read_head(trained_head(folder, model));
  for (const auto& entry : head.tensors) EXPECT_TRUE(toy::last_block(entry.first)) << entry.first;
  EXPECT_EQ(head.tensors.size(), 8U);
  EXPECT_EQ(head.info.step, 3);
  EXPECT_EQ(head.info.policy_type, "module");
  EXPECT_THAT(head.info.freeze_rules, testing::ElementsAre("toy"));
}

TEST(Head, WrongBaseIsRefusedAndNothingChanges) {
  const toy::Folder folder;
  const fs::path file = trained_head(folder, Model());
  Model other(toy::ModelOptions{.seed = 2});
  const auto before = toy::copy_of(*other);
  const std::string message = toy::message_of<MismatchError>([&] { load_head(*other, file); });
  EXPECT_THAT(message,
              testing::AllOf(testing::HasSubstr("the base it was trained on"), testing::HasSubstr(file.string())));
  for (const auto& [name, tensor] : toy::copy_of(*other)) EXPECT_BITWISE_EQUAL(tensor, before.at(name));
}

/// A head that claims the base of `model`.
Head claim(const Model& model, std::map<std::string, at::Tensor> tensors) {
  return {.info = {.policy_type = "module",
                   .base_digest = base_digest(*model),
                   .plan_digest = "p",
                   .step = 1,
                   .thaw_version = "0"},
          .tensors = std::move(tensors)};
}

TEST(Head, UnknownTensorAndWrongShapeAreRefusedByName) {
  const toy::Folder folder;
  Model model;
  const fs::path file = folder.path() / "head.safetensors";
  write_head(file, claim(model, {{"head.weigth", at::zeros({3, 6})}}));
  EXPECT_THAT(toy::message_of<MismatchError>([&] { load_head(*model, file); }), testing::HasSubstr("head.weigth"));
  write_head(file, claim(model, {{"head.weight", at::zeros({3, 5})}}));
  EXPECT_THAT(toy::message_of<MismatchError>([&] { load_head(*model, file); }),
              testing::AllOf(testing::HasSubstr("[3, 6]"), testing::HasSubstr("[3, 5]")));
}

TEST(Head, StatisticsTravelWithIt) {
  const toy::Folder folder;
  Model model;
  Head head = claim(model, {{"head.bias", at::zeros({3})}});
  head.statistics["observation.state"]["mean"] = at::tensor({1.5, 2.5}, at::kDouble);
  head.statistics["observation.images.top"]["q01"] = at::zeros({3, 1, 1});
  head.info.rename_map = {{"observation.images.a", "observation.images.b"}};
  const fs::path file = folder.path() / "head.safetensors";
  write_head(file, head);
  const Head read = read_head(file);
  EXPECT_EQ(read.tensors.size(), 1U);
  EXPECT_BITWISE_EQUAL(read.statistics.at("observation.state").at("mean"),
                       head.statistics["observation.state"]["mean"]);
  EXPECT_BITWISE_EQUAL(read.statistics.at("observation.images.top").at("q01"), at::zeros({3, 1, 1}));
  EXPECT_EQ(read.info.rename_map, head.info.rename_map);
}

TEST(Head, ParameterUnderTheReservedPrefixIsRefused) {
  const toy::Folder folder;
  Model model;
  const std::string message = toy::message_of<UsageError>([&] {
    write_head(folder.path() / "h", claim(model, {{"__statistics__.x", at::zeros({1})}}));
  });
  EXPECT_THAT(message, testing::HasSubstr("__statistics__.x"));
}

TEST(Head, FileThatIsNoHeadIsNamedAsSuch) {
  const toy::Folder folder;
  const fs::path file = folder.path() / "model.safetensors";
  const std::vector<NamedTensor> tensors = {{.name = "w", .tensor = at::zeros({1})}};
  write_safetensors(file, tensors);
  EXPECT_THAT(toy::message_of<FormatError>([&] { (void)read_head(file); }),
              testing::AllOf(testing::HasSubstr("a head written by thaw"), testing::HasSubstr("model.safetensors")));
  write_safetensors(file, tensors, {{"thaw.head.schema_version", "2"}});
  EXPECT_THAT(toy::message_of<FormatError>([&] { (void)read_head(file); }), testing::HasSubstr("schema version 1"));
}

TEST(Head, BaseDigestOfPlanAndModuleAgreeAndChangeWithOneBit) {
  Model model;
  FreezePlan plan = toy::plan_of(*model, toy::last_block);
  EXPECT_THAT(toy::message_of<UsageError>([&] { (void)base_digest(plan); }), testing::HasSubstr("embed.weight"));
  add_digests(plan, *model);
  EXPECT_EQ(base_digest(plan), base_digest(*model));
  {
    const at::NoGradGuard no_grad;
    model->embed->weight[0][0] = -model->embed->weight[0][0];
  }
  EXPECT_NE(base_digest(plan), base_digest(*model));
}

}  // namespace
}  // namespace thaw::head_test
