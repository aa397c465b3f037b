// Against torchvision and LeRobot: make_image_transforms.py.
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "../../src/data/image_transforms_pixels_impl.h"
#include "core/throws.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/data/image_transforms.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::image_transforms_pixels_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

const std::filesystem::path kGolden = std::filesystem::path(thaw::test::source_dir()) / "tests/data/image_transforms";

/// float32: rounding of another order of the same few operations.
constexpr Bound kFloat{.absolute = 1e-6};

at::Tensor called(const Json& call, const at::Tensor& picture) {
  const auto function = call.at("function").get<std::string>();
  const Json& kwargs = call.at("kwargs");
  if (function == "affine") {
    return images::affine(picture, {.angle = kwargs.at("angle").get<double>(),
                                    .shift_x = kwargs.at("translate")[0].get<double>(),
                                    .shift_y = kwargs.at("translate")[1].get<double>(),
                                    .scale = kwargs.at("scale").get<double>(),
                                    .shear_x = kwargs.at("shear")[0].get<double>(),
                                    .shear_y = kwargs.at("shear")[1].get<double>()});
  }
  const auto factor = kwargs.begin()->get<double>();
  if (function == "adjust_brightness") return images::adjust_brightness(picture, factor);
  if (function == "adjust_contrast") return images::adjust_contrast(picture, factor);
  if (function == "adjust_saturation") return images::adjust_saturation(picture, factor);
  if (function == "adjust_hue") return images::adjust_hue(picture, factor);
  if (function == "adjust_sharpness") return images::adjust_sharpness(picture, factor);
  ADD_FAILURE() << "no function " << function;
  return picture;
}

struct Golden {
  std::map<std::string, at::Tensor> tensors = read_safetensors(kGolden / "pictures.safetensors");
  Json cases = read_json(kGolden / "cases.json").at("cases");

  [[nodiscard]] at::Tensor picture(const std::string& name, bool as_float) const {
    const at::Tensor bytes = tensors.at("picture/" + name);
    return as_float ? bytes.to(at::kFloat) / 255 : bytes;
  }
};

/// Of uint8, a value that lies on the edge between two levels may fall to either.
void expect_bytes(const at::Tensor& actual, const at::Tensor& expected, const std::string& name) {
  const Comparison nearly = compare_tensors(actual, expected, {.absolute = 1.0});
  EXPECT_TRUE(nearly) << name << ": " << nearly.message;
  EXPECT_LE(actual.ne(expected).sum().item<std::int64_t>(), expected.numel() / 200) << name;
}

TEST(PixelFunctions, EqualTorchvisionsOnFloatPictures) {
  const Golden golden;
  ASSERT_GE(golden.cases.size(), 20U);
  for (const Json& call : golden.cases) {
    const auto name = call.at("case").get<std::string>();
    const at::Tensor actual = called(call, golden.picture(call.at("picture").get<std::string>(), true));
    const Comparison result = compare_tensors(actual, golden.tensors.at(name + "/float32"), kFloat);
    EXPECT_TRUE(result) << name << ": " << result.message;
  }
}

TEST(PixelFunctions, EqualTorchvisionsOnBytePictures) {
  const Golden golden;
  for (const Json& call : golden.cases) {
    const auto name = call.at("case").get<std::string>();
    const at::Tensor actual = called(call, golden.picture(call.at("picture").get<std::string>(), false));
    expect_bytes(actual, golden.tensors.at(name + "/uint8"), name);
  }
}

TEST(PixelFunctions, TakeEveryStepOfTimeForItself) {
  const Golden golden;
  const at::Tensor steps = images::adjust_contrast(golden.picture("steps", true), 0.5);
  const Comparison result = compare_tensors(steps, golden.tensors.at("contrast_steps/float32"), kFloat);
  EXPECT_TRUE(result) << result.message;
  const at::Tensor alone = images::adjust_contrast(golden.picture("smooth", true), 0.5);
  EXPECT_TRUE(bitwise_equal(steps[1], alone));
}

TEST(PixelFunctions, AllSixInTurnEqualLeRobotsImageTransforms) {
  const Golden golden;
  ImageTransformsOptions options{.enable = true, .max_num_transforms = 6};
  for (const auto& [key, value] : std::map<std::string, std::string>{{"brightness", "0.9:0.9"},
                                                                     {"contrast", "1.15:1.15"},
                                                                     {"saturation", "0.7:0.7"},
                                                                     {"hue", "0.04:0.04"},
                                                                     {"sharpness", "1.4:1.4"},
                                                                     {"affine.degrees", "3:3"},
                                                                     {"affine.translate", "0:0"}}) {
    set_image_transform(options, key, value, "test");
  }
  const ImageTransforms six(options, 1, {});
  const Comparison result = compare_tensors(six.transformed(golden.picture("steps", true), {.frame = 3}),
                                            golden.tensors.at("all_six/float32"), {.absolute = 5e-6});
  EXPECT_TRUE(result) << result.message;
  expect_bytes(six.transformed(golden.picture("steps", false), {.frame = 3}), golden.tensors.at("all_six/uint8"),
               "all_six");
}

TEST(PixelFunctions, LeavePicturesAsTheyAreWhereTheFactorSaysSo) {
  const Golden golden;
  for (const bool as_float : {false, true}) {
    const at::Tensor picture = golden.picture("random", as_float);
    EXPECT_TRUE(bitwise_equal(images::adjust_brightness(picture, 1.0), picture));
    EXPECT_TRUE(bitwise_equal(images::adjust_contrast(picture, 1.0), picture));
    EXPECT_TRUE(bitwise_equal(images::adjust_saturation(picture, 1.0), picture));
    EXPECT_TRUE(bitwise_equal(images::adjust_sharpness(picture, 1.0), picture));
    EXPECT_TRUE(bitwise_equal(images::affine(picture, {}), picture));
    const at::Tensor narrow = picture.slice(-1, 3, 5);
    EXPECT_TRUE(bitwise_equal(images::adjust_sharpness(narrow, 0.0), narrow.contiguous()));
  }
}

TEST(PixelFunctions, RefuseWhatIsNoPicture) {
  const auto of = [](const at::Tensor& tensor) {
    return message_of<MismatchError>([&] { static_cast<void>(images::adjust_hue(tensor, 0.1)); });
  };
  EXPECT_THAT(of(at::zeros({4, 8, 8})), AllOf(HasSubstr("(..., 3, H, W) uint8 or float32"), HasSubstr("[4, 8, 8]")));
  EXPECT_THAT(of(at::zeros({3, 8, 8}, at::kDouble)), HasSubstr("Double"));
  EXPECT_THAT(of(at::zeros({3})), HasSubstr("[3]"));
}

}  // namespace
}  // namespace thaw::image_transforms_pixels_test
