#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "rgb_impl.h"
#include "yuv420_impl.h"

extern "C" {
#include <libavutil/pixdesc.h>
}

#include "thaw/core/error.h"

namespace thaw::lerobot {
namespace {

constexpr int kRowAlignment = 64;

int row_bytes(int width) { return (3 * width + kRowAlignment - 1) / kRowAlignment * kRowAlignment; }

/// FFmpeg 5 still has the old full-range formats; swscale warns about them and wants the range said separately.
bool is_full_range(const AVFrame& frame) {
  const bool old_full_format = frame.format == AV_PIX_FMT_YUVJ420P || frame.format == AV_PIX_FMT_YUVJ422P ||
                               frame.format == AV_PIX_FMT_YUVJ444P || frame.format == AV_PIX_FMT_YUVJ440P ||
                               frame.format == AV_PIX_FMT_YUVJ411P;
  return old_full_format || frame.color_range == AVCOL_RANGE_JPEG;
}

int coefficients_of(AVColorSpace space) {
  switch (space) {
    case AVCOL_SPC_BT709:
      return SWS_CS_ITU709;
    case AVCOL_SPC_FCC:
      return SWS_CS_FCC;
    case AVCOL_SPC_SMPTE240M:
      return SWS_CS_SMPTE240M;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      return SWS_CS_BT2020;
    default:
      return SWS_CS_ITU601;
  }
}

void set_colours(SwsContext* context, const AVFrame& frame) {
  constexpr int kFixedPointOne = 1 << 16;
  const int* table = sws_getCoefficients(coefficients_of(frame.colorspace));
  // Formats that are no YUV have no such details; swscale then says so and converts as it should.
  sws_setColorspaceDetails(context, table, is_full_range(frame) ? 1 : 0, table, 1, 0, kFixedPointOne, kFixedPointOne);
}

/// H x W x 3 with padded rows to 3 x H x W.
void to_planes(const std::uint8_t* packed, int stride, int height, int width, std::uint8_t* planes) {
  const std::ptrdiff_t plane = std::ptrdiff_t{height} * width;
  for (int y = 0; y < height; ++y) {
    const std::uint8_t* row = packed + std::ptrdiff_t{y} * stride;
    std::uint8_t* out = planes + std::ptrdiff_t{y} * width;
    for (int x = 0; x < width; ++x) {
      out[x] = row[3 * x];
      out[plane + x] = row[3 * x + 1];
      out[2 * plane + x] = row[3 * x + 2];
    }
  }
}

}  // namespace

void RgbConverter::prepare(const AVFrame& frame) {
  const bool same = context_ != nullptr && width_ == frame.width && height_ == frame.height &&
                    format_ == frame.format && colorspace_ == frame.colorspace && range_ == frame.color_range;
  if (same) return;
  const auto format = static_cast<AVPixelFormat>(frame.format);
  if (sws_isSupportedInput(format) > 0) {
    context_.reset(sws_getContext(frame.width, frame.height, format, frame.width, frame.height, AV_PIX_FMT_RGB24,
                                  SWS_BILINEAR, nullptr, nullptr, nullptr));
  } else {
    context_.reset();
  }
  if (context_ == nullptr) {
    const char* name = av_get_pix_fmt_name(format);
    throw FormatError(
        fmt::format("a picture in pixel format '{}' cannot be converted to RGB", name ? name : "unknown"));
  }
  set_colours(context_.get(), frame);
  width_ = frame.width;
  height_ = frame.height;
  format_ = frame.format;
  colorspace_ = frame.colorspace;
  range_ = frame.color_range;
  packed_.resize(static_cast<std::size_t>(row_bytes(width_)) * height_ + kRowAlignment);
}

void RgbConverter::convert_through_swscale(const AVFrame& frame, std::uint8_t* planes) {
  prepare(frame);
  const int stride = row_bytes(width_);
  std::uint8_t* rows[] = {packed_.data()};
  const int strides[] = {stride};
  sws_scale(context_.get(), frame.data, frame.linesize, 0, height_, rows, strides);
  to_planes(packed_.data(), stride, height_, width_, planes);
}

at::Tensor RgbConverter::convert(const AVFrame& frame) {
  at::Tensor image = at::empty({3, frame.height, frame.width}, at::kByte);
  auto* planes = image.mutable_data_ptr<std::uint8_t>();
  if (is_plain_yuv420(frame)) {
    const int* table = sws_getCoefficients(coefficients_of(frame.colorspace));
    yuv420_to_planes(frame, yuv_coefficients(table, is_full_range(frame)), planes);
  } else {
    convert_through_swscale(frame, planes);
  }
  return image;
}

}  // namespace thaw::lerobot
