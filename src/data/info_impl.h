/// meta/info.json: the schema and the counters of a LeRobotDataset.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "path_template_impl.h"

namespace thaw::lerobot {

/// One entry of "features".
struct FeatureSpec {
  enum class Kind {
    numeric,  ///< a Parquet column kept in memory
    video,    ///< a camera in mp4 files
    image,    ///< a camera whose frames are PNG or JPEG bytes in Parquet
    ignored,  ///< text, language, depth maps: not read
  };
  std::string name;
  Kind kind = Kind::numeric;
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> shape;  ///< numeric: as declared, {1} is a scalar; cameras: {C, H, W}

  [[nodiscard]] bool is_camera() const { return kind == Kind::video || kind == Kind::image; }
};

struct DatasetInfo {
  std::string version;  ///< "v3.0", "v2.1"
  bool is_v3 = true;
  double fps = 0.0;
  std::int64_t total_episodes = 0;
  std::int64_t total_frames = 0;
  std::int64_t total_tasks = 0;
  std::int64_t chunks_size = 1000;  ///< v2.1: episodes a folder
  PathTemplate data_path;
  std::optional<PathTemplate> video_path;
  std::vector<FeatureSpec> features;  ///< in the file's order
};

/// @throws IoError; FormatError for a value that cannot be, or a version thaw does not read (saying how to convert)
[[nodiscard]] DatasetInfo read_info(const std::filesystem::path& root);

}  // namespace thaw::lerobot
