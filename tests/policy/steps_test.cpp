// The small steps: rename, batch dimension, prompts, device, relative actions.
#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/policy/processor_steps.h"
#include "thaw/tensor/compare.h"

namespace thaw::steps_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Batch batch_of(std::map<std::string, at::Tensor> tensors, std::vector<std::string> tasks = {"pick"}) {
  std::vector<std::int64_t> indices(tasks.size(), 0);
  return {.tensors = std::move(tensors), .tasks = std::move(tasks), .indices = std::move(indices)};
}

std::vector<std::string> keys(const Batch& batch) {
  std::vector<std::string> names;
  for (const auto& [key, tensor] : batch.tensors) names.push_back(key);
  return names;
}

// ---- rename ----

TEST(RenameStep, RenamesKeysAndTheirCompanions) {
  Batch batch = batch_of(
      {{"a", at::zeros({1})}, {"a_is_pad", at::ones({1})}, {"a_padding_mask", at::ones({1})}, {"ab", at::zeros({1})}});
  make_rename_step({{"a", "z"}})->apply(batch);
  EXPECT_THAT(keys(batch), ElementsAre("ab", "z", "z_is_pad", "z_padding_mask"));
}

TEST(RenameStep, SwapsTwoKeys) {
  Batch batch = batch_of({{"a", at::full({1}, 1)}, {"b", at::full({1}, 2)}});
  make_rename_step({{"a", "b"}, {"b", "a"}})->apply(batch);
  EXPECT_TRUE(compare_tensors(batch.at("a"), at::full({1}, 2)));
  EXPECT_TRUE(compare_tensors(batch.at("b"), at::full({1}, 1)));
}

TEST(RenameStep, TwoKeysOfOneNewNameThrow) {
  Batch batch = batch_of({{"a", at::zeros({1})}, {"b", at::zeros({1})}});
  EXPECT_THAT(message_of<MismatchError>([&] { make_rename_step({{"a", "b"}})->apply(batch); }), HasSubstr("'b' twice"));
}

// ---- batch dimension ----

TEST(ToBatchStep, AddsTheDimensionOnlyWhereItIsMissing) {
  Batch batch = batch_of({{"observation.state", at::zeros({4})},
                          {"observation.environment_state", at::zeros({2, 4})},
                          {"observation.image", at::zeros({3, 2, 2})},
                          {"observation.images.front", at::zeros({1, 3, 2, 2})},
                          {"action", at::zeros({7})},
                          {"index", at::scalar_tensor(3)},
                          {"other", at::zeros({4})}});
  make_to_batch_step()->apply(batch);
  EXPECT_EQ(batch.at("observation.state").sizes(), at::IntArrayRef({1, 4}));
  EXPECT_EQ(batch.at("observation.environment_state").sizes(), at::IntArrayRef({2, 4}));
  EXPECT_EQ(batch.at("observation.image").sizes(), at::IntArrayRef({1, 3, 2, 2}));
  EXPECT_EQ(batch.at("observation.images.front").sizes(), at::IntArrayRef({1, 3, 2, 2}));
  EXPECT_EQ(batch.at("action").sizes(), at::IntArrayRef({1, 7}));
  EXPECT_EQ(batch.at("index").sizes(), at::IntArrayRef({1}));
  EXPECT_EQ(batch.at("other").sizes(), at::IntArrayRef({4}));
}

// ---- prompts ----

TEST(NewLineStep, EndsEveryTaskWithOneNewline) {
  for (const char* name : {"smolvla_new_line_processor", "pi0_new_line_processor"}) {
    const auto step = make_new_line_step(name);
    EXPECT_EQ(step->registry_name(), name);
    Batch batch = batch_of({}, {"pick", "place\n", ""});
    step->apply(batch);
    EXPECT_THAT(batch.tasks, ElementsAre("pick\n", "place\n", "\n"));
  }
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(make_new_line_step("new_line")); }),
              HasSubstr("'new_line'"));
}

TEST(Pi05Prompt, HoldsTheCleanedTaskAndTheBinsOfTheState) {
  Batch batch = batch_of({{"observation.state", at::tensor({-1.5, -1.0, -0.993, 0.0, 0.999, 1.0, 7.0}).unsqueeze(0)}},
                         {" \xC2\xA0pick_up\nthe cube\t\n"});
  make_pi05_prompt_step()->apply(batch);
  EXPECT_EQ(batch.tasks.at(0), "Task: pick up the cube, State: -1 0 0 128 255 255 255;\nAction: ");
}

TEST(Pi05Prompt, ValueNextToAnEdgeFallsOnItsSide) {
  const float below_zero = -1e-30F;
  const float edge = -127.0F / 128.0F;
  const float below_edge = std::nextafter(edge, -1.0F);
  Batch batch = batch_of({{"observation.state", at::tensor({below_zero, edge, below_edge}).unsqueeze(0)}}, {"t"});
  make_pi05_prompt_step()->apply(batch);
  EXPECT_EQ(batch.tasks.at(0), "Task: t, State: 127 1 0;\nAction: ");
}

TEST(Pi05Prompt, StateThatDoesNotFitTheTasksThrows) {
  Batch batch = batch_of({{"observation.state", at::zeros({2, 3})}}, {"one task"});
  EXPECT_THAT(message_of<MismatchError>([&] { make_pi05_prompt_step()->apply(batch); }),
              AllOf(HasSubstr("observation.state"), HasSubstr("[2, 3]")));
  Batch without = batch_of({});
  EXPECT_THAT(message_of<MismatchError>([&] { make_pi05_prompt_step()->apply(without); }),
              HasSubstr("'observation.state'"));
}

// ---- device ----

TEST(DeviceStep, KeepsTensorsWhereTheDeviceIsOutOfReach) {
  Batch batch = batch_of({{"observation.state", at::ones({1, 2})}});
  make_device_step(at::Device(at::kMPS))->apply(batch);
  EXPECT_TRUE(batch.at("observation.state").is_cpu());
  EXPECT_EQ(make_device_step(at::Device(at::kCUDA, 1))->config_json(), R"({"device":"cuda","float_dtype":null})");
}

// ---- relative actions ----

TEST(RelativeActions, SubtractTheStateAndComeBack) {
  const at::Tensor state = at::tensor({1.0, 2.0, 3.0}).unsqueeze(0);
  const at::Tensor action = at::tensor({5.0, 5.0, 6.0, 6.0}).reshape({1, 2, 2});
  Batch batch = batch_of({{"observation.state", state}, {"action", action}});
  make_relative_actions_step({.enabled = true})->apply(batch);
  EXPECT_TRUE(compare_tensors(batch.at("action"), at::tensor({4.0, 3.0, 5.0, 4.0}).reshape({1, 2, 2})));
  Batch output = postprocessor_input(batch, batch.at("action"));
  make_absolute_actions_step(true)->apply(output);
  EXPECT_TRUE(compare_tensors(output.at("action"), action));
}

TEST(RelativeActions, ExcludedJointsStayAbsolute) {
  const RelativeActionOptions options{.enabled = true,
                                      .exclude_joints = {"gripper", ""},
                                      .action_names = std::vector<std::string>{"elbow.pos", "Left_GRIPPER.pos"}};
  Batch batch = batch_of({{"observation.state", at::ones({1, 3})}, {"action", at::full({1, 3}, 5.0)}});
  make_relative_actions_step(options)->apply(batch);
  EXPECT_TRUE(compare_tensors(batch.at("action"), at::tensor({4.0F, 5.0F, 4.0F}).unsqueeze(0)));
}

TEST(RelativeActions, DisabledStepsPass) {
  const at::Tensor action = at::ones({1, 2});
  Batch batch = batch_of({{"observation.state", at::ones({1, 2})}, {"action", action}});
  make_relative_actions_step({})->apply(batch);
  make_absolute_actions_step(false)->apply(batch);
  EXPECT_THAT(keys(batch), ElementsAre("action", "observation.state"));
  EXPECT_TRUE(bitwise_equal(batch.at("action"), action));
}

TEST(RelativeActions, AbsoluteActionsWithoutAReferenceThrow) {
  Batch batch = batch_of({{"action", at::ones({1, 2})}});
  EXPECT_THAT(message_of<MismatchError>([&] { make_absolute_actions_step(true)->apply(batch); }),
              HasSubstr("'action.reference'"));
}

TEST(RelativeActions, StateNarrowerThanTheActionThrows) {
  Batch batch = batch_of({{"observation.state", at::ones({1, 2})}, {"action", at::ones({1, 3})}});
  EXPECT_THAT(message_of<MismatchError>([&] { make_relative_actions_step({.enabled = true})->apply(batch); }),
              AllOf(HasSubstr("[1, 2]"), HasSubstr("[1, 3]")));
}

}  // namespace
}  // namespace thaw::steps_test
