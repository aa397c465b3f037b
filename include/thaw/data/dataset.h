/// A LeRobotDataset (v3.0 or v2.1) on disk, read frame by frame.
///
/// Legend: D vector width, T time steps of a delta list, C/H/W image channels, height, width.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "thaw/policy/batch.h"
#include "thaw/policy/features.h"
#include "thaw/policy/statistics.h"

namespace thaw {

/// Per dataset key: offsets in frames relative to the sample ("action" -> 0..49).
using DeltaIndices = std::map<std::string, std::vector<std::int64_t>>;

struct DatasetOptions {
  std::vector<std::int64_t> episodes;  ///< only these (any order, no duplicates); empty: all
  DeltaIndices deltas;
  std::vector<std::string> cameras;  ///< decode only these; empty: all
  bool decode_images = true;         ///< false: samples carry no images (statistics, planning)
  void validate() const;             ///< @throws UsageError naming the field
};

/// One row of the episode table, the same for both format versions.
struct Episode {
  std::int64_t index = 0;
  std::int64_t from = 0;  ///< global frame range [from, to)
  std::int64_t to = 0;
  std::vector<std::string> tasks;
  [[nodiscard]] std::int64_t length() const { return to - from; }
};

/// Seconds -> frames. @throws UsageError listing the offsets that are no multiple of 1/fps within `tolerance_s`
[[nodiscard]] DeltaIndices delta_indices(const std::map<std::string, std::vector<double>>& delta_timestamps, double fps,
                                         double tolerance_s = 1e-4);

class LeRobotDataset {
 public:
  /// Reads and cross-checks meta/, the numeric columns (kept in memory) and the video indexes.
  /// @throws IoError, FormatError, MismatchError: one message that lists what disagrees (counts, fps, columns, videos)
  [[nodiscard]] static LeRobotDataset open(const std::filesystem::path& root, DatasetOptions options = {});
  ~LeRobotDataset();
  LeRobotDataset(LeRobotDataset&&) noexcept;
  LeRobotDataset& operator=(LeRobotDataset&&) noexcept;

  [[nodiscard]] const std::filesystem::path& root() const;
  [[nodiscard]] const std::string& version() const;  ///< "v3.0", "v2.1"
  [[nodiscard]] double fps() const;
  [[nodiscard]] std::int64_t size() const;                                   ///< selected frames
  [[nodiscard]] std::int64_t total_frames() const;                           ///< of the whole dataset
  [[nodiscard]] const std::vector<Episode>& episodes() const;                ///< all of the dataset
  [[nodiscard]] const std::vector<std::int64_t>& selected_episodes() const;  ///< ascending
  [[nodiscard]] const std::vector<std::string>& tasks() const;
  /// In the order of info.json; images (C, H, W); default columns (timestamp, index, …) included as `other`. Text,
  /// language and depth features are not read and left out.
  [[nodiscard]] const Features& features() const;
  [[nodiscard]] const DatasetOptions& options() const;
  /// Whether a camera's pictures are frames of videos, not stored images. @throws UsageError with the nearest names
  [[nodiscard]] bool is_video(const std::string& camera) const;

  /// Global frame number of position `position` in [0, size()).
  [[nodiscard]] std::int64_t frame_at(std::int64_t position) const;
  /// The text of its task.
  [[nodiscard]] const std::string& task_at(std::int64_t position) const;
  /// The sample at a position in [0, size()). Thread-safe. Images uint8 RGB (C, H, W), or (T, C, H, W) for T > 1
  /// deltas; a delta key gets a leading T and "<key>_is_pad" (T) bool; past an episode's ends the first or last frame
  /// repeats. Numbers in the declared dtype; a feature of shape [1] is a scalar, as in LeRobot.
  /// @throws UsageError (position); FormatError, MismatchError, IoError when a picture cannot be read
  [[nodiscard]] Sample sample(std::int64_t position) const;

  /// The same without the cameras (and without their "<camera>_is_pad"): nothing is decoded. Thread-safe.
  /// @throws UsageError (position)
  [[nodiscard]] Sample sample_without_images(std::int64_t position) const;

  /// Whether sample(next) right after sample(before) on the same thread goes on decoding where that left off (in some
  /// camera), and so is cheaper than by itself. @throws UsageError (position)
  [[nodiscard]] bool reads_on(std::int64_t before, std::int64_t next) const;

  /// A numeric feature of all selected frames: (size()) for scalars, else (size(), D…), in the declared dtype.
  /// @throws UsageError with the nearest names
  [[nodiscard]] at::Tensor column(const std::string& key) const;

  /// A copy that reads other episodes / deltas and shares the tables and video indexes.
  [[nodiscard]] LeRobotDataset with(DatasetOptions options) const;

  /// SHA-256 (hex) of what the whole dataset is on disk now: names and contents of the files in meta/; names, sizes and
  /// modification times of its data and video files. Another when it was changed or encoded anew. @throws IoError
  [[nodiscard]] std::string digest() const;

  /// meta/stats.json as LeRobot serves it (v2.1: aggregated from episodes_stats.jsonl); empty when absent.
  [[nodiscard]] const Statistics& stored_statistics() const;

 private:
  struct Impl;
  explicit LeRobotDataset(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace thaw
