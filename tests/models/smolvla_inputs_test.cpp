// Cameras, states and actions on their way into the model; positions and masks.
#include "thaw/core/error.h"
#include "thaw/models/smolvla/inputs.h"
#include "thaw/models/smolvla/sequence.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"

namespace thaw::smolvla::smolvla_inputs_test {
namespace {

at::Tensor normal(std::uint64_t seed, at::IntArrayRef shape) {
  return random_normal({.seed = seed, .stream = RandomStream::test}, shape);
}

SmolVLAConfig config_with(const std::vector<std::string>& cameras) {
  SmolVLAConfig config;
  config.image_width = config.image_height = 32;
  for (const std::string& camera : cameras) {
    config.input_features.push_back({.name = camera, .type = FeatureType::visual, .shape = {3, 32, 32}});
  }
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {14}}};
  return config;
}

template <class Error>
std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(ResizeWithPadding, PadsOnTheLeftAndOnTop) {
  const at::Tensor out = resize_with_padding(at::ones({1, 3, 480, 640}), 512, 512);
  EXPECT_EQ(out.sizes(), at::IntArrayRef({1, 3, 512, 512}));
  EXPECT_EQ(out.narrow(2, 0, 128).abs().max().item<float>(), 0.0F);  // 640 -> 512 gives 480 -> 384
  EXPECT_NEAR(out.narrow(2, 128, 384).min().item<float>(), 1.0F, 1e-6F);
  const at::Tensor tall = resize_with_padding(at::ones({1, 3, 640, 480}), 512, 512);
  EXPECT_EQ(tall.narrow(3, 0, 128).abs().max().item<float>(), 0.0F);
  EXPECT_NEAR(tall.narrow(3, 128, 384).min().item<float>(), 1.0F, 1e-6F);
}

TEST(ResizeWithPadding, NewSizesAreTruncated) {
  const at::Tensor out = resize_with_padding(at::ones({1, 3, 301, 300}), 512, 512);  // 300 · 512 / 301 = 510.3
  EXPECT_EQ(out.narrow(3, 0, 2).abs().max().item<float>(), 0.0F);
  EXPECT_NEAR(out.narrow(3, 2, 510).min().item<float>(), 1.0F, 1e-6F);
}

TEST(ResizeWithPadding, AnImageOfTheRightSizeIsLeftAlone) {
  const at::Tensor image = normal(1, {1, 3, 32, 32});
  EXPECT_TRUE(bitwise_equal(resize_with_padding(image, 32, 32), image));
}

TEST(ResizeWithPadding, ShrinkingDoesNotSmoothFirst) {
  // Every fourth column is white: without antialiasing the samples between two black columns stay black.
  at::Tensor image = at::zeros({1, 3, 64, 64});
  image.slice(3, 3, 64, 4).fill_(1.0);
  const at::Tensor out = resize_with_padding(image, 16, 16);
  EXPECT_EQ(out.abs().max().item<float>(), 0.0F);
}

TEST(ResizeWithPadding, AnImageThatWouldVanishIsRefused) {
  EXPECT_THAT(message_of<MismatchError>([] {
                static_cast<void>(resize_with_padding(at::ones({1, 3, 1, 100}), 32, 32));
              }),
              testing::HasSubstr("1 x 100"));
}

TEST(CameraInputs, PixelsRunFromMinusOneToOneWhateverTheType) {
  const SmolVLAConfig config = config_with({"a"});
  Batch batch;
  batch.tensors["a"] = at::full({1, 3, 32, 32}, 255, at::kByte);
  EXPECT_EQ(camera_inputs(config, batch).pixels.min().item<float>(), 1.0F);
  batch.tensors["a"] = at::zeros({1, 3, 32, 32});
  EXPECT_EQ(camera_inputs(config, batch).pixels.max().item<float>(), -1.0F);
}

TEST(CameraInputs, OrderIsTheConfigurationsAndMissingCamerasAreDroppedOrFilledBehind) {
  SmolVLAConfig config = config_with({"z", "b", "a", "empty_0"});
  Batch batch;
  batch.tensors["a"] = at::full({2, 3, 32, 32}, 0.25);
  batch.tensors["z"] = at::full({2, 3, 32, 32}, 0.75);
  EXPECT_EQ(camera_inputs(config, batch).pixels.size(1), 2) << "nothing is filled without empty_cameras";
  config.empty_cameras = 1;
  const CameraInputs inputs = camera_inputs(config, batch);
  ASSERT_EQ(inputs.pixels.size(1), 3);
  EXPECT_EQ(inputs.pixels[0][0].mean().item<float>(), 0.5F);   // z
  EXPECT_EQ(inputs.pixels[0][1].mean().item<float>(), -0.5F);  // a
  EXPECT_EQ(inputs.pixels[0][2].mean().item<float>(), -1.0F);  // filled
  EXPECT_TRUE(bitwise_equal(inputs.mask, at::tensor({1, 1, 0}).to(at::kBool).expand({2, 3}).contiguous()));
  config.empty_cameras = 5;  // two are missing, so two are filled
  EXPECT_EQ(camera_inputs(config, batch).pixels.size(1), 4);
}

TEST(CameraInputs, OfAHistoryTheLastImageIsTakenAndOfStatesTheLastState) {
  SmolVLAConfig config = config_with({"a"});
  Batch batch;
  batch.tensors["a"] = normal(1, {2, 3, 3, 32, 32}).sigmoid();
  batch.tensors["observation.state"] = normal(2, {2, 3, 5});
  const at::Tensor last = batch.at("a").select(1, 2);
  EXPECT_TRUE(bitwise_equal(camera_inputs(config, batch).pixels.select(1, 0), last * 2.0 - 1.0));
  const at::Tensor state = state_input(config, batch);
  EXPECT_EQ(state.sizes(), at::IntArrayRef({2, 32}));
  EXPECT_TRUE(
      bitwise_equal(state.narrow(1, 0, 5).contiguous(), batch.at("observation.state").select(1, 2).contiguous()));
  EXPECT_EQ(state.narrow(1, 5, 27).abs().max().item<float>(), 0.0F);
}

TEST(CameraInputs, BadImagesAreRefusedByKeyAndShape) {
  const SmolVLAConfig config = config_with({"a", "b"});
  Batch batch;
  batch.tensors["c"] = at::zeros({1});
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(camera_inputs(config, batch)); }),
              testing::AllOf(testing::HasSubstr("a, b"), testing::HasSubstr("the keys c")));
  batch.tensors["a"] = at::zeros({2, 32, 32, 3});
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(camera_inputs(config, batch)); }),
              testing::HasSubstr("(2, 32, 32, 3)"));
  batch.tensors["a"] = at::zeros({2, 3, 32, 32});
  batch.tensors["b"] = at::zeros({1, 3, 32, 32});
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(camera_inputs(config, batch)); }),
              testing::HasSubstr("batch of 2"));
  batch.tensors["b"] = at::zeros({2, 3, 32, 32});
  batch.tensors["b_padding_mask"] = at::ones({3}, at::kBool);
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(camera_inputs(config, batch)); }),
              testing::HasSubstr("b_padding_mask"));
}

TEST(CameraInputs, WithoutResizingOnlyTheRightSizeIsTaken) {
  SmolVLAConfig config = config_with({"a"});
  config.resize_images = false;
  Batch batch;
  batch.tensors["a"] = at::zeros({1, 3, 24, 32});
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(camera_inputs(config, batch)); }),
              testing::HasSubstr("32 x 32"));
}

TEST(ActionTarget, OnlyChunksOfTheConfiguredShapeAreTaken) {
  const SmolVLAConfig config = config_with({"a"});
  Batch batch;
  batch.tensors["action"] = at::zeros({2, 50, 13});
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(action_target(config, batch)); }),
              testing::AllOf(testing::HasSubstr("(batch, 50, 14)"), testing::HasSubstr("(2, 50, 13)")));
  batch.tensors["action"] = at::ones({2, 50, 14});
  EXPECT_EQ(action_target(config, batch).sum().item<float>(), 2 * 50 * 14);
  EXPECT_EQ(action_target(config, batch).size(2), 32);
}

TEST(Aloha, JointsOneTwoEightAndNineChangeTheirSignAndTheInputIsLeftAlone) {
  const at::Tensor state = at::full({1, 14}, 0.5);
  const at::Tensor out = aloha_state_to_pi(state);
  for (std::int64_t joint = 0; joint < 14; ++joint) {
    if (joint == 6 || joint == 13) continue;
    const bool mirrored = joint == 1 || joint == 2 || joint == 8 || joint == 9;
    EXPECT_EQ(out[0][joint].item<float>(), mirrored ? -0.5F : 0.5F) << joint;
  }
  EXPECT_EQ(state.min().item<float>(), 0.5F);
}

TEST(Aloha, GrippersAreMappedAsWorkedOutByHand) {
  // Opening 0.5: position 0.03822 m; sine = (0.022² + 0.03822² − 0.036²) / (2 · 0.022 · 0.03822).
  const double position = 0.01844 + 0.5 * (0.05800 - 0.01844);
  const double sine = (0.022 * 0.022 + position * position - 0.036 * 0.036) / (2.0 * 0.022 * position);
  const double expected = (std::asin(sine) - 0.4) / (1.5 - 0.4);
  EXPECT_NEAR(aloha_state_to_pi(at::full({1, 14}, 0.5))[0][6].item<double>(), expected, 1e-6);
  EXPECT_NEAR(aloha_state_to_pi(at::full({1, 14}, 0.5))[0][13].item<double>(), expected, 1e-6);
  const at::Tensor actions = pi_actions_to_aloha(at::full({1, 1, 14}, 0.25));
  EXPECT_NEAR(actions[0][0][6].item<double>(), (0.4 + 0.25 * 1.1 + 0.6213) / (1.4910 + 0.6213), 1e-6);
  EXPECT_NEAR(actions[0][0][8].item<double>(), -0.25, 0.0);
}

TEST(Aloha, TrainingAndSamplingMapActionsInOppositeDirections) {
  const at::Tensor actions = normal(1, {2, 3, 16});
  EXPECT_TRUE(compare_tensors(pi_actions_to_aloha(aloha_actions_to_pi(actions)), actions, {.absolute = 1e-6}));
}

TEST(Sequence, PositionsCountValidRowsOnly) {
  const at::Tensor rows = at::tensor({0, 1, 0, 0, 1, 1, 0}).to(at::kBool).unsqueeze(0);
  EXPECT_TRUE(bitwise_equal(row_positions(rows), at::tensor({-1, 0, 0, 0, 1, 2, 2}, at::kLong).unsqueeze(0)));
  EXPECT_EQ(state_position(rows).item<std::int64_t>(), 3);
  EXPECT_TRUE(bitwise_equal(suffix_positions(rows, 3), at::tensor({4, 5, 6}, at::kLong).unsqueeze(0)));
}

TEST(Sequence, SpecialTokensAreValidEvenAroundAMaskedCamera) {
  const at::Tensor cameras = at::tensor({0, 1}).to(at::kBool).unsqueeze(0);
  const at::Tensor text = at::tensor({1, 0}).to(at::kBool).unsqueeze(0);
  EXPECT_TRUE(bitwise_equal(row_mask(cameras, text, 2, true),
                            at::tensor({1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0}).to(at::kBool).unsqueeze(0)));
  EXPECT_TRUE(
      bitwise_equal(row_mask(cameras, text, 2, false), at::tensor({0, 0, 1, 1, 1, 0}).to(at::kBool).unsqueeze(0)));
}

TEST(Sequence, ActionsSeeThePrefixAndThoseBeforeThem) {
  const at::Tensor rows = at::tensor({1, 0}).to(at::kBool).unsqueeze(0);
  const at::Tensor expected =
      at::tensor({1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1}).to(at::kBool).view({1, 3, 6});
  EXPECT_TRUE(bitwise_equal(suffix_mask(rows, 3), expected));
}

TEST(Sequence, VisionPositionsAreTheIdentityWhereGridAndTableAgree) {
  for (const std::int64_t side : {1, 2, 8, 16, 32}) {
    EXPECT_TRUE(bitwise_equal(vision_position_ids(side, side, at::kFloat), at::arange(side * side, at::kLong))) << side;
    EXPECT_TRUE(bitwise_equal(vision_position_ids(side, side, at::kBFloat16), at::arange(side * side, at::kLong)));
  }
}

TEST(Sequence, ASmallerGridIsSpreadOverTheTable) {
  EXPECT_TRUE(bitwise_equal(vision_position_ids(2, 4, at::kFloat), at::tensor({0, 2, 8, 10}, at::kLong)));
}

}  // namespace
}  // namespace thaw::smolvla::smolvla_inputs_test
