#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "yuv420_impl.h"

namespace thaw::lerobot {
namespace {

constexpr std::int64_t kOne = 1 << 16;          // of swscale's fixed point
constexpr int kPixelShift = 3;                  // pixels times 8 ...
constexpr std::int64_t kCoefficientShift = 13;  // ... by coefficients times 2^13, and the upper 16 bits of it
constexpr int kChromaZero = 128 << kPixelShift;

/// value * 2^shift in 16.16 fixed point, rounded.
std::int16_t rounded(std::int64_t value, std::int64_t shift) {
  const std::int64_t whole = ((value << shift) + kOne / 2) >> 16;
  return static_cast<std::int16_t>(std::clamp<std::int64_t>(whole, std::numeric_limits<std::int16_t>::min(),
                                                            std::numeric_limits<std::int16_t>::max()));
}

/// The upper half of a product of 16 bits.
std::int16_t upper(std::int16_t a, std::int16_t b) {
  return static_cast<std::int16_t>((std::int32_t{a} * std::int32_t{b}) >> 16);
}

std::uint8_t to_byte(int value) { return static_cast<std::uint8_t>(std::clamp(value, 0, 255)); }

/// What chroma adds to each pixel of a row (and of the next, which shares it).
struct ChromaRow {
  explicit ChromaRow(int width) : red(static_cast<std::size_t>(width) + 1), green(red.size()), blue(red.size()) {}

  void read(const std::uint8_t* u, const std::uint8_t* v, int width, const YuvCoefficients& k) {
    std::int16_t* to_red = red.data();
    std::int16_t* to_green = green.data();
    std::int16_t* to_blue = blue.data();
    for (int x = 0; x < (width + 1) / 2; ++x) {
      const auto u8 = static_cast<std::int16_t>((u[x] << kPixelShift) - kChromaZero);
      const auto v8 = static_cast<std::int16_t>((v[x] << kPixelShift) - kChromaZero);
      const std::int16_t r = upper(v8, k.red_of_v);
      const auto g = static_cast<std::int16_t>(upper(u8, k.green_of_u) + upper(v8, k.green_of_v));
      const std::int16_t b = upper(u8, k.blue_of_u);
      to_red[2 * x] = to_red[2 * x + 1] = r;
      to_green[2 * x] = to_green[2 * x + 1] = g;
      to_blue[2 * x] = to_blue[2 * x + 1] = b;
    }
  }

  std::vector<std::int16_t> red;
  std::vector<std::int16_t> green;
  std::vector<std::int16_t> blue;
};

void write_row(const std::uint8_t* __restrict luma, const std::int16_t* __restrict chroma, int width,
               const YuvCoefficients& k, std::uint8_t* __restrict out) {
  const std::int16_t offset = k.luma_offset;
  const std::int16_t factor = k.luma;
  for (int x = 0; x < width; ++x) {
    const auto y8 = static_cast<std::int16_t>((luma[x] << kPixelShift) - offset);
    out[x] = to_byte(static_cast<std::int16_t>(upper(y8, factor) + chroma[x]));
  }
}

}  // namespace

YuvCoefficients yuv_coefficients(const int* table, bool full_range) {
  constexpr std::int64_t kLimitedLuma = 219;
  constexpr std::int64_t kLimitedChroma = 224;
  const auto chroma = [&](std::int64_t value) {
    return rounded(full_range ? value * kLimitedChroma / 255 : value, kCoefficientShift);
  };
  return {.luma_offset = static_cast<std::int16_t>(full_range ? 0 : 16 << kPixelShift),
          .luma = rounded(full_range ? kOne : kOne * 255 / kLimitedLuma, kCoefficientShift),
          .red_of_v = chroma(table[0]),
          .green_of_u = chroma(-std::int64_t{table[2]}),
          .green_of_v = chroma(-std::int64_t{table[3]}),
          .blue_of_u = chroma(table[1])};
}

bool is_plain_yuv420(const AVFrame& frame) {
  return (frame.format == AV_PIX_FMT_YUV420P || frame.format == AV_PIX_FMT_YUVJ420P) && frame.height % 2 == 0;
}

void yuv420_to_planes(const AVFrame& frame, const YuvCoefficients& coefficients, std::uint8_t* planes) {
  const int width = frame.width;
  const std::ptrdiff_t plane = std::ptrdiff_t{frame.height} * width;
  ChromaRow chroma(width);
  for (int y = 0; y < frame.height; ++y) {
    const std::ptrdiff_t half = y / 2;
    if (y % 2 == 0) {
      chroma.read(frame.data[1] + half * frame.linesize[1], frame.data[2] + half * frame.linesize[2], width,
                  coefficients);
    }
    const std::uint8_t* luma = frame.data[0] + std::ptrdiff_t{y} * frame.linesize[0];
    std::uint8_t* out = planes + std::ptrdiff_t{y} * width;
    write_row(luma, chroma.red.data(), width, coefficients, out);
    write_row(luma, chroma.green.data(), width, coefficients, out + plane);
    write_row(luma, chroma.blue.data(), width, coefficients, out + 2 * plane);
  }
}

}  // namespace thaw::lerobot
