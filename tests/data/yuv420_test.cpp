#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <functional>

#include "../../src/data/yuv420_impl.h"
#include "thaw/tensor/compare.h"

namespace thaw::lerobot::yuv420_test {
namespace {

struct Colours {
  int table;  // swscale's number for the coefficients
  bool full_range;
};

Av<AVFrame> yuv_frame(int height, int width, AVPixelFormat format = AV_PIX_FMT_YUV420P) {
  Av<AVFrame> frame(av_frame_alloc());
  frame->format = format;
  frame->height = height;
  frame->width = width;
  if (av_frame_get_buffer(frame.get(), 0) < 0) throw std::bad_alloc();
  return frame;
}

using Value = std::function<int(int y, int x)>;

void fill(const AVFrame& frame, int plane, int height, int width, const Value& value) {
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x)
      frame.data[plane][y * frame.linesize[plane] + x] = static_cast<uint8_t>(value(y, x));
  }
}

/// Every pair of chroma values, each with the four luma values from `luma` on.
Av<AVFrame> every_chroma(int luma) {
  Av<AVFrame> frame = yuv_frame(512, 512);
  fill(*frame, 0, 512, 512, [luma](int y, int x) { return luma + 2 * (y % 2) + x % 2; });
  fill(*frame, 1, 256, 256, [](int /*y*/, int x) { return x; });
  fill(*frame, 2, 256, 256, [](int y, int /*x*/) { return y; });
  return frame;
}

at::Tensor through_swscale(const AVFrame& frame, const Colours& colours) {
  const Av<SwsContext> context(sws_getContext(frame.width, frame.height, AV_PIX_FMT_YUV420P, frame.width, frame.height,
                                              AV_PIX_FMT_RGB24, SWS_BILINEAR, nullptr, nullptr, nullptr));
  const int* table = sws_getCoefficients(colours.table);
  sws_setColorspaceDetails(context.get(), table, colours.full_range ? 1 : 0, table, 1, 0, 1 << 16, 1 << 16);
  constexpr int kPadding = 64;  // swscale writes whole vectors
  const int stride = 3 * frame.width + kPadding;
  at::Tensor packed = at::zeros({frame.height, stride}, at::kByte);
  std::uint8_t* rows[] = {packed.mutable_data_ptr<std::uint8_t>()};
  const int strides[] = {stride};
  sws_scale(context.get(), frame.data, frame.linesize, 0, frame.height, rows, strides);
  return packed.narrow(1, 0, 3 * frame.width).reshape({frame.height, frame.width, 3}).permute({2, 0, 1}).contiguous();
}

at::Tensor directly(const AVFrame& frame, const Colours& colours) {
  at::Tensor image = at::empty({3, frame.height, frame.width}, at::kByte);
  yuv420_to_planes(frame, yuv_coefficients(sws_getCoefficients(colours.table), colours.full_range),
                   image.mutable_data_ptr<std::uint8_t>());
  return image;
}

/// swscale's converter for other processors rounds otherwise.
#if defined(__x86_64__)

TEST(Yuv420, EveryColourComesOutAsFromSwscale) {
  const Colours colours{.table = SWS_CS_ITU601, .full_range = false};
  for (int luma = 0; luma < 256; luma += 4) {
    const Av<AVFrame> frame = every_chroma(luma);
    ASSERT_TRUE(bitwise_equal(directly(*frame, colours), through_swscale(*frame, colours))) << "luma from " << luma;
  }
}

TEST(Yuv420, OtherColourSpacesAndRangesComeOutAsFromSwscale) {
  for (const int table : {SWS_CS_ITU601, SWS_CS_ITU709, SWS_CS_FCC, SWS_CS_SMPTE240M, SWS_CS_BT2020}) {
    for (const bool full_range : {false, true}) {
      const Colours colours{.table = table, .full_range = full_range};
      for (const int luma : {0, 16, 120, 236, 252}) {
        const Av<AVFrame> frame = every_chroma(luma);
        ASSERT_TRUE(bitwise_equal(directly(*frame, colours), through_swscale(*frame, colours)))
            << "table " << table << (full_range ? ", full range" : ", limited range") << ", luma from " << luma;
      }
    }
  }
}

TEST(Yuv420, EveryPixelOfAnySizeComesOutAsFromSwscale) {
  const Colours colours{.table = SWS_CS_ITU601, .full_range = false};
  for (const int height : {2, 34}) {
    for (const int width : {1, 2, 7, 16, 50, 65}) {
      const Av<AVFrame> frame = yuv_frame(height, width);
      fill(*frame, 0, height, width, [](int y, int x) { return 89 * y + 31 * x + y * x; });
      fill(*frame, 1, height / 2, (width + 1) / 2, [](int y, int x) { return 53 * y + 97 * x; });
      fill(*frame, 2, height / 2, (width + 1) / 2, [](int y, int x) { return 200 - 61 * y + 17 * x; });
      EXPECT_TRUE(bitwise_equal(directly(*frame, colours), through_swscale(*frame, colours)))
          << height << " x " << width;
    }
  }
}

#endif

TEST(Yuv420, LeavesTheRestToSwscale) {
  EXPECT_TRUE(is_plain_yuv420(*yuv_frame(48, 63)));
  EXPECT_TRUE(is_plain_yuv420(*yuv_frame(48, 64, AV_PIX_FMT_YUVJ420P)));
  EXPECT_FALSE(is_plain_yuv420(*yuv_frame(49, 64))) << "an odd height";
  for (const AVPixelFormat format : {AV_PIX_FMT_YUV420P10LE, AV_PIX_FMT_YUV422P, AV_PIX_FMT_NV12, AV_PIX_FMT_RGB24}) {
    EXPECT_FALSE(is_plain_yuv420(*yuv_frame(48, 64, format))) << format;
  }
}

}  // namespace
}  // namespace thaw::lerobot::yuv420_test
