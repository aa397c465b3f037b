#include "thaw/data/image_transforms.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "../../src/data/image_transforms_pixels_impl.h"
#include "dataset_fixture.h"
#include "thaw/tensor/compare.h"

namespace thaw::image_transforms_test {
namespace {

using test::given_set;
using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

ImageTransformsOptions enabled(std::int64_t views = 0) { return {.enable = true, .views = views}; }

/// A grey picture: brightness says by how much it was multiplied, nothing else changes it.
at::Tensor grey() { return at::full({3, 4, 4}, 0.5F); }

ImageTransformsOptions only(const std::string& name, const std::string& range) {
  ImageTransformsOptions options = enabled();
  std::erase_if(options.transforms, [&](const ImageTransform& transform) { return transform.name != name; });
  set_image_transform(options, name, range, "test");
  return options;
}

double factor_at(const ImageTransforms& transforms, const PictureKey& key) {
  return transforms.transformed(grey(), key)[0][0][0].item<double>() / 0.5;
}

/// A picture on which each of the six shows.
at::Tensor colours() { return at::arange(3 * 24 * 24).to(at::kFloat).view({3, 24, 24}).mul(0.0137).remainder(1.0); }

TEST(ImageTransforms, SamePictureOfTheSameViewIsTheSameAndAnotherOfAnything) {
  const ImageTransforms transforms(enabled(), 7, {});
  const PictureKey key{.frame = 12, .camera = 1, .view = 3};
  const at::Tensor picture = transforms.transformed(colours(), key);
  EXPECT_TRUE(bitwise_equal(ImageTransforms(enabled(), 7, {}).transformed(colours(), key), picture));
  EXPECT_FALSE(bitwise_equal(transforms.transformed(colours(), {.frame = 13, .camera = 1, .view = 3}), picture));
  EXPECT_FALSE(bitwise_equal(transforms.transformed(colours(), {.frame = 12, .camera = 0, .view = 3}), picture));
  EXPECT_FALSE(bitwise_equal(transforms.transformed(colours(), {.frame = 12, .camera = 1, .view = 2}), picture));
  EXPECT_FALSE(bitwise_equal(ImageTransforms(enabled(), 8, {}).transformed(colours(), key), picture));
}

TEST(ImageTransforms, StrengthsFillTheirRangeEvenly) {
  const ImageTransforms transforms(only("brightness", "0.6:1.4"), 3, {});
  constexpr int kDraws = 2000;
  std::array<int, 4> quarter{};
  for (std::int64_t frame = 0; frame < kDraws; ++frame) {
    const double factor = factor_at(transforms, {.frame = frame});
    ASSERT_GE(factor, 0.6 - 1e-6);
    ASSERT_LE(factor, 1.4 + 1e-6);
    ++quarter.at(static_cast<std::size_t>(std::min((factor - 0.6) / 0.2, 3.0)));
  }
  for (const int count : quarter) EXPECT_NEAR(count, kDraws / 4, 5 * std::sqrt(kDraws * 0.25 * 0.75));
}

/// Which of three brightness transforms were applied: their factors are powers of one another, so a product tells.
TEST(ImageTransforms, ChoosesByWeightAndNoneTwice) {
  ImageTransformsOptions options = enabled();
  options.transforms.clear();
  for (const auto& [name, factor, weight] :
       {std::tuple{"half", 0.5, 1.0}, std::tuple{"third", 1.0 / 3, 3.0}, std::tuple{"never", 0.2, 0.0}}) {
    options.transforms.push_back({.name = name, .weight = weight, .kwargs = {{"brightness", {factor, factor}}}});
  }
  options.max_num_transforms = 1;
  int thirds = 0;
  constexpr int kDraws = 2000;
  const ImageTransforms one(options, 3, {});
  for (std::int64_t frame = 0; frame < kDraws; ++frame) {
    const double factor = factor_at(one, {.frame = frame});
    const bool is_third = std::abs(factor - 1.0 / 3) < 1e-6;
    ASSERT_TRUE(is_third || std::abs(factor - 0.5) < 1e-6) << factor;
    thirds += is_third ? 1 : 0;
  }
  EXPECT_NEAR(thirds, kDraws * 0.75, 5 * std::sqrt(kDraws * 0.25 * 0.75));
  options.max_num_transforms = 3;  // more than there are of a weight
  const ImageTransforms both(options, 3, {});
  for (std::int64_t frame = 0; frame < 50; ++frame) EXPECT_NEAR(factor_at(both, {.frame = frame}), 1.0 / 6, 1e-6);
}

TEST(ImageTransforms, AppliesAsListedUnlessOrderIsToBeRandom) {
  ImageTransformsOptions options = enabled();
  options.transforms = {{.name = "brighter", .kwargs = {{"brightness", {3.0, 3.0}}}},
                        {.name = "darker", .kwargs = {{"brightness", {0.25, 0.25}}}}};
  const auto results = [&](bool random_order) {
    options.random_order = random_order;
    const ImageTransforms transforms(options, 3, {});
    std::set<std::int64_t> seen;  // white after the first or not: 100 * 0.25 or 100 * 0.375
    for (std::int64_t frame = 0; frame < 64; ++frame) {
      seen.insert(std::llround(100 * 0.5 * factor_at(transforms, {.frame = frame}) * 10));
    }
    return seen;
  };
  EXPECT_EQ(results(false), (std::set<std::int64_t>{250}));
  EXPECT_EQ(results(true), (std::set<std::int64_t>{250, 375}));
}

TEST(ImageTransforms, ShiftsStayWithinTheirShareOfThePicture) {
  ImageTransformsOptions options = enabled();
  std::erase_if(options.transforms, [](const ImageTransform& transform) { return transform.name != "affine"; });
  set_image_transform(options, "affine.degrees", "0:0", "test");
  set_image_transform(options, "affine.translate", "0.1:0.3", "test");
  const ImageTransforms transforms(options, 3, {});
  at::Tensor dot = at::zeros({3, 20, 20});
  dot.index_put_({at::tensor({0}), at::tensor({10}), at::tensor({10})}, 1.0F);
  std::set<std::int64_t> columns, rows;
  for (std::int64_t frame = 0; frame < 300; ++frame) {
    const at::Tensor found = transforms.transformed(dot, {.frame = frame})[0].nonzero();
    ASSERT_EQ(found.size(0), 1);
    rows.insert(found[0][0].item<std::int64_t>() - 10);
    columns.insert(found[0][1].item<std::int64_t>() - 10);
  }
  EXPECT_EQ(columns, (std::set<std::int64_t>{-2, -1, 0, 1, 2}));
  EXPECT_EQ(*rows.begin(), -6);
  EXPECT_EQ(*rows.rbegin(), 6);
}

TEST(ImageTransforms, FixedViewsComeInTurnEachOnceInAsManyEpochs) {
  const ImageTransforms transforms(enabled(4), 7, {});
  std::set<std::int64_t> firsts;
  for (std::int64_t frame = 0; frame < 40; ++frame) {
    std::set<std::int64_t> seen;
    for (std::int64_t epoch = 5; epoch < 9; ++epoch) seen.insert(transforms.view_at({.frame = frame, .epoch = epoch}));
    EXPECT_EQ(seen, (std::set<std::int64_t>{0, 1, 2, 3})) << frame;
    firsts.insert(transforms.view_at({.frame = frame, .epoch = 0}));
  }
  EXPECT_EQ(firsts.size(), 4U) << "an epoch has frames of every view";
  EXPECT_EQ(ImageTransforms(enabled(0), 7, {}).view_at({.frame = 3, .epoch = 9}), 9);
}

TEST(ImageTransforms, PicturesOfAViewDoNotDependOnHowManyViewsThereAre) {
  const PictureKey key{.frame = 5, .view = 2};
  EXPECT_TRUE(bitwise_equal(ImageTransforms(enabled(4), 7, {}).transformed(colours(), key),
                            ImageTransforms(enabled(6), 7, {}).transformed(colours(), key)));
}

TEST(ImageTransforms, ChangeThePicturesOfASampleAndNothingElse) {
  const LeRobotDataset dataset = LeRobotDataset::open(given_set("v30_av1"));
  const ImageTransforms transforms(enabled(), 7, augmented_cameras(dataset));
  const Sample plain = dataset.sample(17);
  Sample sample = dataset.sample(17);
  transforms.apply(sample, 2);
  ASSERT_EQ(sample.tensors.size(), plain.tensors.size());
  for (const auto& [key, tensor] : plain.tensors) {
    const bool is_camera = key.starts_with("observation.images.");
    EXPECT_EQ(bitwise_equal(sample.tensors.at(key), tensor), !is_camera) << key;
    EXPECT_EQ(sample.tensors.at(key).scalar_type(), tensor.scalar_type()) << key;
  }
}

TEST(ImageTransforms, MeetStoredImagesAsFloatsAndVideosAsBytesLikeLeRobots) {
  const LeRobotDataset stored = LeRobotDataset::open(given_set("v30_png"));
  ASSERT_EQ(augmented_cameras(stored).size(), 1U);
  EXPECT_TRUE(augmented_cameras(stored).front().as_float);
  Sample sample = stored.sample(3);
  const std::string camera = augmented_cameras(stored).front().key;
  const at::Tensor as_float = sample.tensors.at(camera).to(at::kFloat) / 255;
  const ImageTransforms transforms(enabled(), 7, augmented_cameras(stored));
  transforms.apply(sample, 1);
  EXPECT_TRUE(bitwise_equal(sample.tensors.at(camera), transforms.transformed(as_float, {.frame = 3, .view = 1})));
  for (const AugmentedCamera& of_video : augmented_cameras(LeRobotDataset::open(given_set("v30_h264")))) {
    EXPECT_FALSE(of_video.as_float) << of_video.key;
  }
}

TEST(ImageTransforms, DefaultsAreLeRobots) {
  EXPECT_EQ(
      ImageTransformsOptions{}.to_json().dump(),
      R"({"max_num_transforms":3,"random_order":false,"tfs":{)"
      R"("brightness":{"weight":1.0,"type":"ColorJitter","kwargs":{"brightness":[0.8,1.2]}},)"
      R"("contrast":{"weight":1.0,"type":"ColorJitter","kwargs":{"contrast":[0.8,1.2]}},)"
      R"("saturation":{"weight":1.0,"type":"ColorJitter","kwargs":{"saturation":[0.5,1.5]}},)"
      R"("hue":{"weight":1.0,"type":"ColorJitter","kwargs":{"hue":[-0.05,0.05]}},)"
      R"("sharpness":{"weight":1.0,"type":"SharpnessJitter","kwargs":{"sharpness":[0.5,1.5]}},)"
      R"("affine":{"weight":1.0,"type":"RandomAffine","kwargs":{"degrees":[-5.0,5.0],"translate":[0.05,0.05]}}}})");
}

TEST(ImageTransforms, EveryOptionThatChangesAPictureChangesTheIdentity) {
  const auto identity_with = [](const auto& edit) {
    ImageTransformsOptions options = enabled(4);
    edit(options);
    return ImageTransforms(options, 7, {}).identity();
  };
  const std::string plain = identity_with([](ImageTransformsOptions&) {});
  EXPECT_NE(identity_with([](ImageTransformsOptions& o) { o.max_num_transforms = 2; }), plain);
  EXPECT_NE(identity_with([](ImageTransformsOptions& o) { o.random_order = true; }), plain);
  EXPECT_NE(identity_with([](ImageTransformsOptions& o) { o.transforms[2].weight = 2.0; }), plain);
  EXPECT_NE(identity_with([](ImageTransformsOptions& o) { o.transforms[3].kwargs["hue"][1] = 0.06; }), plain);
  EXPECT_NE(ImageTransforms(enabled(4), 8, {}).identity(), plain);
  EXPECT_EQ(identity_with([](ImageTransformsOptions& o) { o.views = 9; }), plain);
}

TEST(ImageTransforms, RefusesOptionsOutOfRange) {
  const auto refusal = [](const auto& edit) {
    ImageTransformsOptions options = enabled();
    edit(options);
    return message_of<UsageError>([&] { const ImageTransforms transforms(options, 1, {}); });
  };
  using Options = ImageTransformsOptions;
  EXPECT_THAT(refusal([](Options& o) { o.views = -1; }), AllOf(HasSubstr("views"), HasSubstr("-1")));
  EXPECT_THAT(refusal([](Options& o) { o = {.views = 4}; }), HasSubstr("--image-transforms"));
  EXPECT_THAT(refusal([](Options& o) { o.max_num_transforms = 0; }), HasSubstr("max_num_transforms"));
  EXPECT_THAT(refusal([](Options& o) { o.transforms[0].weight = -1; }), HasSubstr("'brightness', weight"));
  EXPECT_THAT(refusal([](Options& o) { o.transforms.clear(); }), HasSubstr("weight above 0"));
  EXPECT_THAT(refusal([](Options& o) { o.transforms[1].name = "brightness"; }), HasSubstr("each once"));
  EXPECT_THAT(refusal([](Options& o) {
                o.transforms[3].kwargs["hue"] = {-0.6, 0.1};
              }),
              AllOf(HasSubstr("hue"), HasSubstr("-0.5 to 0.5"), HasSubstr("-0.6:0.1")));
  EXPECT_THAT(refusal([](Options& o) { o.transforms[0].kwargs["brightness"] = {1.2, 0.8}; }), HasSubstr("rising"));
  EXPECT_THAT(refusal([](Options& o) { o.transforms[0].kwargs["brightness"] = {NAN, 0.8}; }), HasSubstr("nan"));
  EXPECT_THAT(refusal([](Options& o) { o.transforms[0].kwargs.clear(); }), HasSubstr("at least one range"));
  EXPECT_THAT(refusal([](Options& o) {
                o.transforms[4].kwargs["sharpnes"] = {1, 1};
              }),
              AllOf(HasSubstr("SharpnessJitter"), HasSubstr("'sharpness'")));
}

TEST(ImageTransforms, SettingWhatIsNotThereNamesWhatIs) {
  const auto refusal = [](const std::string& key, const std::string& value) {
    ImageTransformsOptions options;
    return message_of<UsageError>([&] { set_image_transform(options, key, value, "--flag"); });
  };
  EXPECT_THAT(refusal("brightnes", "0.8:1.2"), AllOf(HasSubstr("--flag"), HasSubstr("Did you mean 'brightness'")));
  EXPECT_THAT(refusal("affine", "0.8:1.2"), HasSubstr("degrees"));
  EXPECT_THAT(refusal("affine.turn", "0:1"), HasSubstr("'turn'"));
  EXPECT_THAT(refusal("hue", "0.1"), HasSubstr("0.8:1.2"));
  EXPECT_THAT(refusal("hue", "0.1:x"), HasSubstr("a number"));
  EXPECT_THAT(refusal("hue.weight", "much"), HasSubstr("hue.weight"));
}

}  // namespace
}  // namespace thaw::image_transforms_test
