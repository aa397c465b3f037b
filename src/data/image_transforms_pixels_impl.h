// Pixel functions of torchvision.transforms.v2.functional (0.26), on pictures (…, 3, H, W) that are uint8 0..255 or
// float32 [0, 1], each as torchvision treats it (uint8 truncates). Results are new tensors. All work on the calling
// thread in a fixed order, so that the same picture gives the same bits anywhere.
#pragma once

#include <ATen/core/Tensor.h>

namespace thaw::images {

/// factor >= 0; 1: unchanged; 0: black.
[[nodiscard]] at::Tensor adjust_brightness(const at::Tensor& picture, double factor);
/// factor >= 0; 0: the mean grey.
[[nodiscard]] at::Tensor adjust_contrast(const at::Tensor& picture, double factor);
/// factor >= 0; 0: grey.
[[nodiscard]] at::Tensor adjust_saturation(const at::Tensor& picture, double factor);
/// shift in [-0.5, 0.5] turns of the colour circle.
[[nodiscard]] at::Tensor adjust_hue(const at::Tensor& picture, double shift);
/// factor >= 0; 0: blurred. Pixels at the edge, and pictures of less than three pixels a side, stay as they are.
[[nodiscard]] at::Tensor adjust_sharpness(const at::Tensor& picture, double factor);

struct Affine {
  double angle = 0.0;    ///< degrees, clockwise
  double shift_x = 0.0;  ///< pixels to the right
  double shift_y = 0.0;  ///< pixels down
  double scale = 1.0;
  double shear_x = 0.0;  ///< degrees
  double shear_y = 0.0;
};
/// About the picture's centre; nearest pixel, black from beyond the edge.
[[nodiscard]] at::Tensor affine(const at::Tensor& picture, const Affine& map);

}  // namespace thaw::images
