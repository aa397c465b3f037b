/// The numeric columns of all frames, in memory, and where the rows of images in Parquet lie.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "episode_table_impl.h"
#include "findings_impl.h"
#include "info_impl.h"

namespace thaw::lerobot {

/// One data file and the episodes in it (consecutive).
struct DataFile {
  std::filesystem::path path;
  std::string label;  ///< relative path
  std::size_t first_episode = 0;
  std::size_t episodes = 0;
};

struct FrameTable {
  std::map<std::string, at::Tensor> columns;  ///< (frames) or (frames, shape…), row = global frame number
  std::vector<DataFile> files;
  std::vector<std::size_t> file_of_episode;  ///< index into files
};

/// Reads every numeric column and checks rows, columns and the running numbers against the episode table.
[[nodiscard]] FrameTable read_frame_table(const std::filesystem::path& root, const DatasetInfo& info,
                                          const std::vector<EpisodeRow>& episodes, std::size_t tasks,
                                          Findings& findings);

}  // namespace thaw::lerobot
