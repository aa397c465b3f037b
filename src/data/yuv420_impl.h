/// YUV 4:2:0 to planes of RGB in one pass over the picture, where swscale writes packed RGB that must be taken apart.
#pragma once

#include <cstdint>

#include "ffmpeg_impl.h"

namespace thaw::lerobot {

/// The products of swscale's x86 converter in 16 bits, so that a picture comes out the same bit for bit.
/// Source: ff_yuv2rgb_c_init_tables (libswscale/yuv2rgb.c) and libswscale/x86/yuv_2_rgb.asm.
struct YuvCoefficients {
  std::int16_t luma_offset = 0;  ///< times 8, as all of these are taken from pixels times 8
  std::int16_t luma = 0;
  std::int16_t red_of_v = 0;
  std::int16_t green_of_u = 0;
  std::int16_t green_of_v = 0;
  std::int16_t blue_of_u = 0;
};

/// `table` as sws_getCoefficients gives it.
[[nodiscard]] YuvCoefficients yuv_coefficients(const int* table, bool full_range);

/// Whether yuv420_to_planes() reads the frame as swscale would: 8-bit planar 4:2:0 with an even height (for odd ones
/// swscale interpolates the chroma).
[[nodiscard]] bool is_plain_yuv420(const AVFrame& frame);

/// Writes 3 x height x width bytes, red first.
void yuv420_to_planes(const AVFrame& frame, const YuvCoefficients& coefficients, std::uint8_t* planes);

}  // namespace thaw::lerobot
