/// The episode table: v3.0's meta/episodes/*.parquet and v2.1's meta/episodes.jsonl in one form.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "findings_impl.h"
#include "info_impl.h"

namespace thaw::lerobot {

/// Where an episode lies in a video file.
struct VideoSpan {
  std::string file;             ///< relative path
  double from_timestamp = 0.0;  ///< seconds in the file
};

struct EpisodeRow {
  std::int64_t index = 0;
  std::int64_t length = 0;
  std::int64_t from = 0;  ///< global frame range [from, from + length)
  std::vector<std::string> tasks;
  std::string data_file;                    ///< relative path
  std::map<std::string, VideoSpan> videos;  ///< by camera
};

/// In the order of episodes: row i is episode i, ranges join without gaps. What does not hold becomes a finding.
[[nodiscard]] std::vector<EpisodeRow> read_episode_table(const std::filesystem::path& root, const DatasetInfo& info,
                                                         Findings& findings);

/// The task texts, text i for task_index i.
[[nodiscard]] std::vector<std::string> read_tasks(const std::filesystem::path& root, const DatasetInfo& info);

}  // namespace thaw::lerobot
