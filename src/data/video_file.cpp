#include <fmt/format.h>

#include "video_file_impl.h"

extern "C" {
#include <libavutil/display.h>
#include <libavutil/log.h>
}

#include <algorithm>
#include <cmath>
#include <mutex>

#include "thaw/core/error.h"

namespace thaw::lerobot {
namespace {

constexpr int kIoBuffer = 1 << 16;
constexpr unsigned kMaxStreams = 16;

int refuse_other_files(AVFormatContext* /*format*/, AVIOContext** /*io*/, const char* /*url*/, int /*flags*/,
                       AVDictionary** /*options*/) {
  return AVERROR(EACCES);
}

/// thaw reports what is wrong itself; FFmpeg's own lines would come between.
void silence_ffmpeg() {
  static std::once_flag once;
  std::call_once(once, [] { av_log_set_level(AV_LOG_QUIET); });
}

[[noreturn]] void refuse_video(const std::string& label, const std::string& found) {
  throw FormatError(Problem{.where = label, .expected = "a readable MP4 video", .found = found});
}

bool turned(const AVStream& stream) {
  const std::uint8_t* matrix = av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr);
  if (matrix == nullptr) return false;
  const double degrees = av_display_rotation_get(reinterpret_cast<const std::int32_t*>(matrix));
  return std::isfinite(degrees) && std::abs(degrees) > 0.5;
}

}  // namespace

int VideoFile::read_bytes(void* opaque, std::uint8_t* out, int count) {
  auto& source = *static_cast<Source*>(opaque);
  const auto size = static_cast<std::int64_t>(source.file.size());
  const std::int64_t got = std::min<std::int64_t>(count, size - source.position);
  if (got <= 0) return AVERROR_EOF;
  if (source.blank) {
    std::fill_n(out, got, std::uint8_t{0});
  } else {
    try {
      source.file.read_at(static_cast<std::uint64_t>(source.position),
                          {reinterpret_cast<std::byte*>(out), static_cast<std::size_t>(got)});
    } catch (const Error&) {
      return AVERROR(EIO);
    }
  }
  source.position += got;
  return static_cast<int>(got);
}

std::int64_t VideoFile::seek_bytes(void* opaque, std::int64_t offset, int whence) {
  auto& source = *static_cast<Source*>(opaque);
  const auto size = static_cast<std::int64_t>(source.file.size());
  if ((whence & AVSEEK_SIZE) != 0) return size;
  std::int64_t base = 0;
  if ((whence & ~AVSEEK_FORCE) == SEEK_CUR) base = source.position;
  if ((whence & ~AVSEEK_FORCE) == SEEK_END) base = size;
  std::int64_t target = 0;
  if (__builtin_add_overflow(base, offset, &target) || target < 0) return AVERROR(EINVAL);
  source.position = target;
  return target;
}

VideoFile::VideoFile(const std::filesystem::path& path, std::string label)
    : label_(std::move(label)), source_{.file = InputFile(path)}, boxes_(check_mp4_boxes(source_.file, label_)) {
  silence_ffmpeg();
  open();
  choose_stream();
}

void VideoFile::open() {
  auto* buffer = static_cast<unsigned char*>(av_malloc(kIoBuffer));
  io_.reset(avio_alloc_context(buffer, kIoBuffer, 0, &source_, &read_bytes, nullptr, &seek_bytes));
  AVFormatContext* format = avformat_alloc_context();
  if (io_ == nullptr || format == nullptr) throw std::bad_alloc();
  format->pb = io_.get();
  // No parsers: times and flags stay as the container has them, with or without the pictures' bytes.
  format->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_NOPARSE | AVFMT_FLAG_NOFILLIN;
  format->io_open = &refuse_other_files;
  format->max_streams = kMaxStreams;
  const int status = avformat_open_input(&format, "", av_find_input_format("mp4"), nullptr);
  if (status < 0) refuse_video(label_, "a damaged header (" + av_message(status) + ")");
  format_.reset(format);
}

void VideoFile::choose_stream() {
  for (unsigned i = 0; i < format_->nb_streams; ++i) {
    AVStream& candidate = *format_->streams[i];
    candidate.discard = AVDISCARD_ALL;
    if (candidate.codecpar->codec_type != AVMEDIA_TYPE_VIDEO) continue;
    if (stream_ >= 0) refuse_video(label_, "several video streams");
    stream_ = static_cast<int>(i);
  }
  if (stream_ < 0) refuse_video(label_, "no video stream");
  stream().discard = AVDISCARD_DEFAULT;
  if (turned(stream())) refuse_video(label_, "a video turned by its display matrix");
}

bool VideoFile::read(AVPacket& packet) {
  while (true) {
    av_packet_unref(&packet);
    const int status = av_read_frame(format_.get(), &packet);
    if (status == AVERROR_EOF) return false;
    if (status < 0) refuse_video(label_, "frames that cannot be read (" + av_message(status) + ")");
    if (packet.stream_index == stream_) return true;
  }
}

void VideoFile::seek(std::int64_t dts) {
  const int status = av_seek_frame(format_.get(), stream_, dts, AVSEEK_FLAG_BACKWARD);
  if (status < 0) refuse_video(label_, "a key frame that cannot be reached (" + av_message(status) + ")");
}

}  // namespace thaw::lerobot
