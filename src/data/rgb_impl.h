/// Decoded frames as RGB tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "ffmpeg_impl.h"

namespace thaw::lerobot {

/// Converts as swscale does: 8-bit 4:2:0, which nearly every video is, by itself, the rest through swscale. A stream
/// that says nothing about its colours is BT.601, limited range, as every reader of LeRobot videos takes it. Not
/// thread-safe.
class RgbConverter {
 public:
  /// (3, H, W) uint8. @throws FormatError for a pixel format swscale cannot read
  [[nodiscard]] at::Tensor convert(const AVFrame& frame);

 private:
  void prepare(const AVFrame& frame);
  void convert_through_swscale(const AVFrame& frame, std::uint8_t* planes);

  Av<SwsContext> context_;
  int width_ = 0;
  int height_ = 0;
  int format_ = -1;
  int colorspace_ = -1;
  int range_ = -1;
  std::vector<std::uint8_t> packed_;  // rows of RGB, padded: swscale writes in whole vectors
};

}  // namespace thaw::lerobot
