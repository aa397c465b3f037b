// Cameras, states and actions on their way into pi0; positions and masks of its suffix.
#include <gmock/gmock.h>

#include "thaw/core/error.h"
#include "thaw/models/pi0/inputs.h"
#include "thaw/models/pi0/sequence.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"

namespace thaw::pi0::pi0_inputs_test {
namespace {

at::Tensor normal(std::uint64_t seed, at::IntArrayRef shape) {
  return random_normal({.seed = seed, .stream = RandomStream::test}, shape);
}

Pi0Config config_with(const std::vector<std::string>& cameras) {
  Pi0Config config = default_pi0_config(PiVersion::pi0);
  config.image_resolution = config.sizes.vision.image_size = 56;
  for (const std::string& camera : cameras) {
    config.input_features.push_back({.name = camera, .type = FeatureType::visual, .shape = {3, 56, 56}});
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

TEST(ResizeCentred, PadsAroundTheImageTheOddRowBehind) {
  // 480 x 640 into 224: 168 rows, 28 above and below.
  const at::Tensor wide = resize_centred(at::ones({1, 3, 480, 640}), 224);
  EXPECT_EQ(wide.narrow(2, 0, 28).abs().max().item<float>(), 0.0F);
  EXPECT_NEAR(wide.narrow(2, 28, 168).min().item<float>(), 1.0F, 1e-6F);
  EXPECT_EQ(wide.narrow(2, 196, 28).abs().max().item<float>(), 0.0F);
  // 301 x 300: 224 · 300 / 301 = 223.3 columns are 223, so one is left: none before, one behind.
  const at::Tensor tall = resize_centred(at::ones({1, 3, 301, 300}), 224);
  EXPECT_NEAR(tall.narrow(3, 0, 223).min().item<float>(), 1.0F, 1e-6F);
  EXPECT_EQ(tall.narrow(3, 223, 1).abs().max().item<float>(), 0.0F);
}

TEST(ResizeCentred, AnImageOfTheRightSizeIsLeftAloneAndOthersAreCutToTheRange) {
  const at::Tensor image = normal(1, {1, 3, 56, 56});
  EXPECT_TRUE(bitwise_equal(resize_centred(image, 56), image));
  const at::Tensor resized = resize_centred(3.0 * normal(2, {1, 3, 80, 80}), 56);
  EXPECT_EQ(resized.min().item<float>(), 0.0F);
  EXPECT_EQ(resized.max().item<float>(), 1.0F);
}

TEST(ResizeCentred, ShrinkingDoesNotSmoothFirst) {
  at::Tensor image = at::zeros({1, 3, 64, 64});
  image.slice(3, 3, 64, 4).fill_(1.0);
  EXPECT_EQ(resize_centred(image, 16).abs().max().item<float>(), 0.0F);
}

TEST(ResizeCentred, AnImageThatWouldVanishIsRefused) {
  EXPECT_THAT(message_of<MismatchError>([] {
                static_cast<void>(resize_centred(at::ones({1, 3, 1, 100}), 32));
              }),
              testing::HasSubstr("1 x 100"));
}

TEST(PiCameraInputs, EveryMissingCameraIsFilledBehindThoseThatAreThere) {
  const Pi0Config config = config_with({"z", "b", "a"});
  Batch batch;
  batch.tensors["a"] = at::full({2, 3, 56, 56}, 0.25);
  batch.tensors["z"] = at::full({2, 3, 56, 56}, 0.75);
  const CameraInputs inputs = camera_inputs(config, batch);
  ASSERT_EQ(inputs.pixels.size(1), 3) << "empty_cameras is not asked";
  EXPECT_EQ(inputs.pixels[0][0].mean().item<float>(), 0.5F);   // z
  EXPECT_EQ(inputs.pixels[0][1].mean().item<float>(), -0.5F);  // a, moved forward
  EXPECT_EQ(inputs.pixels[0][2].mean().item<float>(), -1.0F);  // filled
  EXPECT_TRUE(bitwise_equal(inputs.mask, at::tensor({1, 1, 0}).to(at::kBool).expand({2, 3}).contiguous()));
}

TEST(PiCameraInputs, ABatchWithoutACameraIsRefused) {
  EXPECT_THAT(message_of<MismatchError>([] { static_cast<void>(camera_inputs(config_with({"a"}), Batch{})); }),
              testing::HasSubstr("at least one of the cameras a"));
}

TEST(PiState, OfAHistoryTheLastIsTakenAndPaddedAndAWiderOneIsRefused) {
  const Pi0Config config = config_with({"a"});
  Batch batch;
  batch.tensors["observation.state"] = normal(2, {2, 3, 5});
  const at::Tensor state = state_input(config, batch);
  EXPECT_EQ(state.sizes(), at::IntArrayRef({2, 32}));
  EXPECT_TRUE(
      bitwise_equal(state.narrow(1, 0, 5).contiguous(), batch.at("observation.state").select(1, 2).contiguous()));
  EXPECT_EQ(state.narrow(1, 5, 27).abs().max().item<float>(), 0.0F);
  batch.tensors["observation.state"] = normal(2, {2, 33});
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(state_input(config, batch)); }),
              testing::AllOf(testing::HasSubstr("observation.state"), testing::HasSubstr("at most 32"),
                             testing::HasSubstr("(2, 33)")));
}

TEST(PiActions, OnlyChunksOfTheConfiguredShapeAreTaken) {
  const Pi0Config config = config_with({"a"});
  Batch batch;
  batch.tensors["action"] = at::zeros({2, 50, 13});
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(action_target(config, batch)); }),
              testing::AllOf(testing::HasSubstr("(batch, 50, 14)"), testing::HasSubstr("(2, 50, 13)")));
  batch.tensors["action"] = at::ones({2, 50, 14});
  EXPECT_EQ(action_target(config, batch).size(2), 32);
  EXPECT_EQ(action_target(config, batch).sum().item<float>(), 2 * 50 * 14);
}

TEST(PiSequence, ActionsStandBehindTheValidRowsAndTheState) {
  const at::Tensor rows = at::tensor({0, 1, 0, 1}).to(at::kBool).unsqueeze(0);
  EXPECT_TRUE(bitwise_equal(suffix_positions(rows, 1, 3), at::tensor({3, 4, 5}, at::kLong).unsqueeze(0)));
  EXPECT_TRUE(bitwise_equal(suffix_positions(rows, 0, 3), at::tensor({2, 3, 4}, at::kLong).unsqueeze(0)));
}

TEST(PiSequence, ActionsSeeEachOtherBothWays) {
  const at::Tensor rows = at::tensor({1, 0}).to(at::kBool).unsqueeze(0);
  const at::Tensor expected = at::tensor({1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1}).to(at::kBool);
  EXPECT_TRUE(bitwise_equal(suffix_mask(rows, 0, 3), expected.view({1, 3, 5})));
}

TEST(PiSequence, FoldedDrawsSeeTheirOwnChunkAlone) {
  const at::Tensor rows = at::tensor({1, 0}).to(at::kBool).unsqueeze(0);
  const at::Tensor folded = models::fold_draws(suffix_mask(rows, 1, 1), 2);
  const at::Tensor expected = at::tensor({1, 0, 1, 1, 0, 1, 0, 1, 0, 1}).to(at::kBool).view({1, 2, 5});
  EXPECT_TRUE(bitwise_equal(folded, expected));
}

}  // namespace
}  // namespace thaw::pi0::pi0_inputs_test
