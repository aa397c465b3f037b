/// Video files by frame number. Times in seconds are never compared per frame: a file's presentation times are read
/// once, sorted, and the n-th is frame n.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace thaw::lerobot {

/// Where every frame of a file is. Edit lists are applied as libavformat does; frames they hide do not count.
struct VideoIndex {
  struct Key {
    std::int64_t pts = 0;
    std::int64_t dts = 0;  ///< what the demuxer seeks by: seeking by pts misses the leading pictures of open GOPs
  };
  std::filesystem::path path;
  std::string label;  ///< the file's name in messages
  std::string codec;  ///< "av1", "h264", "hevc", "vp9"
  std::int64_t width = 0;
  std::int64_t height = 0;
  double seconds_per_tick = 0.0;
  double fps = 0.0;               ///< from the median distance of frames; 0 for a single frame
  std::vector<std::int64_t> pts;  ///< of frame n, rising
  std::vector<Key> keys;          ///< key frames, rising

  [[nodiscard]] std::int64_t frames() const { return static_cast<std::int64_t>(pts.size()); }
  [[nodiscard]] std::int64_t nearest(double seconds) const;
  /// The last key frame at or before frame `ordinal`.
  [[nodiscard]] const Key& key_of(std::int64_t ordinal) const;
  [[nodiscard]] std::int64_t ordinal_of(std::int64_t time) const;
  /// Whether decoding on from frame `last` to frame `ordinal` is no dearer than starting at its key frame.
  [[nodiscard]] bool reads_on(std::int64_t last, std::int64_t ordinal) const;
};

/// Reads the sample tables, not the pictures. @throws IoError; FormatError naming `label`: no MP4, cut off, no video or
/// several video streams, a codec other than AV1, H.264, HEVC or VP9, frames beyond the end of the file, times that
/// repeat
[[nodiscard]] VideoIndex index_video(const std::filesystem::path& path, const std::string& label);

/// One open file. Not thread-safe.
class VideoReader {
 public:
  explicit VideoReader(std::shared_ptr<const VideoIndex> index);
  ~VideoReader();
  VideoReader(VideoReader&&) noexcept;
  VideoReader& operator=(VideoReader&&) noexcept;
  /// Frame `ordinal` as (3, H, W) uint8 RGB, exactly the one a sequential pass gives. Reading ahead in the same group
  /// of pictures goes on without a seek. @throws IoError; FormatError when the frame is damaged
  [[nodiscard]] at::Tensor frame(std::int64_t ordinal);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw::lerobot
