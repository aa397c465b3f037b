#include <fmt/format.h>

#include "rgb_impl.h"
#include "thaw/core/error.h"
#include "video_file_impl.h"
#include "video_impl.h"

namespace thaw::lerobot {
namespace {

/// FFmpeg's own AV1 decoder needs hardware; the others are the default ones.
const AVCodec* find_decoder(AVCodecID id) {
  return id == AV_CODEC_ID_AV1 ? avcodec_find_decoder_by_name("libdav1d") : avcodec_find_decoder(id);
}

Av<AVCodecContext> open_decoder(const AVStream& stream, const std::string& label) {
  const AVCodec* codec = find_decoder(stream.codecpar->codec_id);
  if (codec == nullptr) {
    throw FormatError(
        Problem{.where = label,
                .expected = "a decoder",
                .found = fmt::format("none for {} in this FFmpeg", avcodec_get_name(stream.codecpar->codec_id))});
  }
  Av<AVCodecContext> context(avcodec_alloc_context3(codec));
  if (context == nullptr || avcodec_parameters_to_context(context.get(), stream.codecpar) < 0) throw std::bad_alloc();
  context->thread_count = 1;  // samples are decoded side by side instead
  context->max_pixels = kMaxPixels;
  context->err_recognition = AV_EF_CAREFUL | AV_EF_EXPLODE;  // never a concealed picture for a damaged one
  context->pkt_timebase = stream.time_base;
  if (avcodec_open2(context.get(), codec, nullptr) < 0) {
    throw FormatError(Problem{.where = label, .found = fmt::format("the {} decoder does not start", codec->name)});
  }
  return context;
}

}  // namespace

struct VideoReader::Impl {
  explicit Impl(std::shared_ptr<const VideoIndex> video)
      : index(std::move(video)),
        file(index->path, index->label),
        decoder(open_decoder(file.stream(), index->label)),
        packet(av_packet_alloc()),
        picture(av_frame_alloc()) {
    if (packet == nullptr || picture == nullptr) throw std::bad_alloc();
  }

  std::shared_ptr<const VideoIndex> index;
  VideoFile file;
  Av<AVCodecContext> decoder;
  Av<AVPacket> packet;
  Av<AVFrame> picture;
  RgbConverter converter;
  std::int64_t last = -1;  // ordinal of the frame decoded last; -1: a seek must come first

  [[noreturn]] void refuse(std::int64_t ordinal, const std::string& found) const {
    throw FormatError(Problem{.where = fmt::format("{} frame {}", index->label, ordinal),
                              .expected = "a picture that decodes without error",
                              .found = found});
  }

  void start_at_key_of(std::int64_t ordinal) {
    avcodec_flush_buffers(decoder.get());
    file.seek(index->key_of(ordinal).dts);
  }

  void feed(std::int64_t ordinal) {
    const bool more = file.read(*packet);
    const int status = avcodec_send_packet(decoder.get(), more ? packet.get() : nullptr);
    if (status < 0 && status != AVERROR_EOF) refuse(ordinal, "damaged data (" + av_message(status) + ")");
  }

  /// The next picture out of the decoder, in presentation order.
  void next_picture(std::int64_t ordinal) {
    while (true) {
      const int status = avcodec_receive_frame(decoder.get(), picture.get());
      if (status == AVERROR(EAGAIN)) {
        feed(ordinal);
        continue;
      }
      if (status == AVERROR_EOF) refuse(ordinal, "the end of the video before it");
      if (status < 0) refuse(ordinal, "damaged data (" + av_message(status) + ")");
      return;
    }
  }

  void check_picture(std::int64_t ordinal) const {
    if (picture->decode_error_flags != 0 || (picture->flags & AV_FRAME_FLAG_CORRUPT) != 0) {
      refuse(ordinal, "a damaged picture");
    }
    if (picture->width != index->width || picture->height != index->height) {
      refuse(ordinal, fmt::format("{} x {} pixels in a video of {} x {}", picture->width, picture->height, index->width,
                                  index->height));
    }
  }

  at::Tensor read(std::int64_t ordinal) {
    const std::int64_t wanted = index->pts.at(static_cast<std::size_t>(ordinal));
    const bool ahead = last >= 0 && index->reads_on(last, ordinal);
    last = -1;  // until the frame is there, the place in the file is not known
    if (!ahead) start_at_key_of(ordinal);
    std::int64_t time = AV_NOPTS_VALUE;
    while (time < wanted) {
      next_picture(ordinal);
      time = picture->pts;
      if (time == AV_NOPTS_VALUE) refuse(ordinal, "a picture without a time");
    }
    if (time > wanted) refuse(ordinal, "another picture in its place");
    check_picture(ordinal);
    last = ordinal;
    return converter.convert(*picture);
  }
};

VideoReader::VideoReader(std::shared_ptr<const VideoIndex> index) : impl_(std::make_unique<Impl>(std::move(index))) {}
VideoReader::~VideoReader() = default;
VideoReader::VideoReader(VideoReader&&) noexcept = default;
VideoReader& VideoReader::operator=(VideoReader&&) noexcept = default;

at::Tensor VideoReader::frame(std::int64_t ordinal) { return impl_->read(ordinal); }

}  // namespace thaw::lerobot
