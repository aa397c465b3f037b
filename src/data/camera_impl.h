/// The cameras of a dataset: in which file, and which frame or row of it, an episode begins.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "episode_table_impl.h"
#include "findings_impl.h"
#include "frame_table_impl.h"
#include "info_impl.h"
#include "parquet_impl.h"
#include "reader_pool_impl.h"
#include "video_impl.h"

namespace thaw::lerobot {

struct CameraFile {
  std::string label;  ///< relative path
  std::filesystem::path path;
};

/// A frame of an episode.
struct EpisodeFrame {
  std::size_t episode = 0;
  std::int64_t frame = 0;
};

/// One camera. All functions are thread-safe.
class Camera {
 public:
  virtual ~Camera() = default;
  /// Where its pictures are.
  [[nodiscard]] virtual std::vector<CameraFile> files() const = 0;
  /// Frames `first <= n` of an episode, rising, as (3, H, W) uint8 each.
  [[nodiscard]] virtual std::vector<at::Tensor> frames(std::size_t episode,
                                                       const std::vector<std::int64_t>& frames) = 0;
  /// Whether reading `next` right after `before` on the same thread goes on where that left off.
  [[nodiscard]] virtual bool reads_on(const EpisodeFrame& before, const EpisodeFrame& next) const = 0;
};

/// Frames of mp4 files. Indexes every file and checks codec, size, rate and frame counts against info.json and the
/// episode table. Base of an episode in its file: see place_episodes().
[[nodiscard]] std::unique_ptr<Camera> open_video_camera(const std::filesystem::path& root, const DatasetInfo& info,
                                                        const FeatureSpec& feature,
                                                        const std::vector<EpisodeRow>& episodes, Findings& findings);

/// PNG or JPEG bytes in the data files.
[[nodiscard]] std::unique_ptr<Camera> open_image_camera(const FeatureSpec& feature, const FrameTable& table,
                                                        const std::vector<EpisodeRow>& episodes);

/// An episode in a video file.
struct PlacedEpisode {
  std::int64_t episode = 0;
  std::int64_t length = 0;
  double from_timestamp = 0.0;
  std::int64_t first = 0;  ///< result: ordinal of its first frame
};

/// Gives every episode of one file its first frame (spec: datasets.md §3). Sorted by from_timestamp; when the lengths
/// add up to the file's frames they are counted through, since timestamps may have drifted; else (an edited dataset
/// that kept the old file) each episode starts at the frame nearest to its timestamp, but never inside the one before.
/// @throws MismatchError naming the episode for which the file is too short
void place_episodes(const VideoIndex& index, std::vector<PlacedEpisode>& episodes);

}  // namespace thaw::lerobot
