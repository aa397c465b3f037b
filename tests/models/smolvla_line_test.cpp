// SmolVLA's staged forward pass: which stages there are, and what its rows depend on.
#include "models/line_checks.h"

namespace thaw::smolvla_line_test {
namespace {

using line_checks::expect_same;
using line_checks::finish;
using line_checks::forget_gradients;
using line_checks::Outcome;
using line_checks::restart_from;
using line_checks::train_only;

TEST(SmolVLALine, OneStagePerBlockAndTheDrawIsReadBySuffixStagesOnly) {
  const auto policy = tiny::policy();
  std::vector<std::string> names;
  for (const Stage& stage : policy->line()) names.push_back(stage.info.name);
  const std::vector<std::string> expected{
      "vision.embed", "vision.0",     "vision.1",     "vision.post",     "connector", "prefix.embed",
      "A.language.0", "A.language.1", "A.language.2", "A.language.3",    "state",     "B.language.0",
      "B.language.1", "B.language.2", "B.language.3", "suffix.sequence", "cross.1",   "cross.3",
      "suffix.embed", "suffix.0",     "suffix.1",     "suffix.2",        "suffix.3",  "suffix.out"};
  EXPECT_EQ(names, expected);
  EXPECT_EQ(names.at(policy->first_draw_stage()), "suffix.embed");
}

TEST(SmolVLALine, RowsOfImagesAndLanguageWithoutGradientsChangeNoGradientOfTheState) {
  const auto policy = tiny::policy();
  const Batch batch = tiny::batch();
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0);
  train_only(*policy, [](const std::string& name) { return name.find(".vlm.") == std::string::npos; });
  PrefixState with_graph = policy->begin(batch);
  policy->add_draw(with_graph, batch, draw);
  run_stages(policy->line(), 0, policy->line().size(), with_graph);
  const Outcome expected = finish(*policy, with_graph, batch, draw);
  ASSERT_TRUE(expected.gradients.contains("model.state_proj.weight"));
  EXPECT_GT(expected.gradients.at("model.state_proj.weight").abs().max().item<double>(), 0.0);
  forget_gradients(*policy);

  std::size_t state_stage = 0;
  while (policy->line()[state_stage].info.name != "state") ++state_stage;
  expect_same(finish(*policy, restart_from(*policy, state_stage, batch, draw), batch, draw), expected);
}

TEST(SmolVLALine, RowsOfImagesAndLanguageDoNotDependOnStateNoiseOrTime) {
  const auto policy = tiny::policy();
  const at::NoGradGuard no_grad;
  Batch batch = tiny::batch();
  PrefixState first = policy->begin(batch);
  run_stages(policy->line(), 0, policy->first_draw_stage(), first);
  batch.tensors["observation.state"] = batch.at("observation.state") + 1.0;
  PrefixState second = policy->begin(batch);
  run_stages(policy->line(), 0, policy->first_draw_stage(), second);
  for (const auto& [key, tensor] : first.tensors()) {
    if (key.rfind("A.", 0) != 0) continue;
    EXPECT_TRUE(bitwise_equal(second.at(key), tensor)) << key;
  }
  EXPECT_FALSE(bitwise_equal(second.at("B.key.3"), first.at("B.key.3")));
}

}  // namespace
}  // namespace thaw::smolvla_line_test
