/// An MP4 file opened by libavformat over our own positioned reads: no protocol, no other file can be reached.
#pragma once

#include <filesystem>
#include <string>

#include "ffmpeg_impl.h"
#include "mp4_boxes_impl.h"
#include "thaw/core/files.h"

namespace thaw::lerobot {

class VideoFile {
 public:
  /// @throws IoError, FormatError
  VideoFile(const std::filesystem::path& path, std::string label);
  VideoFile(const VideoFile&) = delete;
  VideoFile& operator=(const VideoFile&) = delete;

  [[nodiscard]] AVStream& stream() const { return *format_->streams[stream_]; }
  [[nodiscard]] const std::string& label() const { return label_; }
  [[nodiscard]] std::uint64_t size() const { return source_.file.size(); }
  /// Frames' bytes read as zeros from now on: packets then carry times and flags only, and nothing is read from disk.
  /// Not for fragmented files, whose tables lie between the frames.
  void leave_out_pictures() { source_.blank = !boxes_.fragmented; }
  /// The next packet of the video. Returns false at the end. @throws FormatError
  [[nodiscard]] bool read(AVPacket& packet);
  void seek(std::int64_t dts);

 private:
  struct Source {
    InputFile file;
    std::int64_t position = 0;
    bool blank = false;
  };
  static int read_bytes(void* opaque, std::uint8_t* out, int count);
  static std::int64_t seek_bytes(void* opaque, std::int64_t offset, int whence);
  void open();
  void choose_stream();

  std::string label_;
  Source source_;
  Mp4Boxes boxes_;
  Av<AVIOContext> io_;
  Av<AVFormatContext> format_;  // after io_: closed before it
  int stream_ = -1;
};

}  // namespace thaw::lerobot
