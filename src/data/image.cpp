#include <limits>

#include "image_impl.h"
#include "rgb_impl.h"
#include "thaw/core/error.h"

namespace thaw::lerobot {
namespace {

AVCodecID image_codec(std::string_view bytes, const std::string& where) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return AV_CODEC_ID_PNG;
  if (bytes.starts_with("\xff\xd8\xff")) return AV_CODEC_ID_MJPEG;
  const bool tiff = bytes.starts_with(std::string_view("II*\0", 4)) || bytes.starts_with(std::string_view("MM\0*", 4));
  throw FormatError(Problem{.where = where,
                            .expected = "a PNG or JPEG image",
                            .found = tiff ? "a TIFF image (a depth map?)" : "other bytes"});
}

Av<AVCodecContext> open_decoder(AVCodecID id, const std::string& where) {
  const AVCodec* codec = avcodec_find_decoder(id);
  Av<AVCodecContext> context(codec == nullptr ? nullptr : avcodec_alloc_context3(codec));
  if (context == nullptr) throw FormatError(Problem{.where = where, .found = "this FFmpeg has no decoder for it"});
  context->max_pixels = kMaxPixels;
  context->thread_count = 1;
  context->err_recognition = AV_EF_EXPLODE | AV_EF_CRCCHECK;
  if (avcodec_open2(context.get(), codec, nullptr) < 0) {
    throw FormatError(Problem{.where = where, .found = "the image decoder does not start"});
  }
  return context;
}

Av<AVPacket> packet_of(std::string_view bytes) {
  Av<AVPacket> packet(av_packet_alloc());
  if (packet == nullptr || av_new_packet(packet.get(), static_cast<int>(bytes.size())) < 0) throw std::bad_alloc();
  std::copy(bytes.begin(), bytes.end(), packet->data);
  return packet;
}

}  // namespace

at::Tensor decode_image(std::string_view bytes, const std::string& where) {
  if (bytes.size() > static_cast<std::size_t>(std::numeric_limits<int>::max() / 2)) {
    throw FormatError(
        Problem{.where = where, .expected = "an image below 1 GiB", .found = std::to_string(bytes.size())});
  }
  const Av<AVCodecContext> decoder = open_decoder(image_codec(bytes, where), where);
  const Av<AVPacket> packet = packet_of(bytes);
  const Av<AVFrame> frame(av_frame_alloc());
  int status = avcodec_send_packet(decoder.get(), packet.get());
  if (status >= 0) avcodec_send_packet(decoder.get(), nullptr);
  if (status >= 0) status = avcodec_receive_frame(decoder.get(), frame.get());
  if (status < 0 || frame->decode_error_flags != 0) {
    throw FormatError(Problem{.where = where,
                              .expected = "a whole image",
                              .found = "damaged image data" + (status < 0 ? " (" + av_message(status) + ")" : "")});
  }
  RgbConverter converter;
  return converter.convert(*frame);
}

}  // namespace thaw::lerobot
