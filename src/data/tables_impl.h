/// Everything open() reads, shared by all views of a dataset.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "camera_impl.h"
#include "episode_table_impl.h"
#include "frame_table_impl.h"
#include "info_impl.h"
#include "thaw/data/dataset.h"

namespace thaw::lerobot {

struct Tables {
  std::filesystem::path root;
  DatasetInfo info;
  std::vector<Episode> episodes;
  std::vector<std::string> tasks;
  Features features;
  FrameTable frames;
  std::vector<std::int64_t> task_of_frame;
  std::map<std::string, std::unique_ptr<Camera>> cameras;
  Statistics stored_statistics;

  [[nodiscard]] std::int64_t total_frames() const { return episodes.back().to; }
  [[nodiscard]] const FeatureSpec* feature(const std::string& name) const;
};

/// Reads and cross-checks all of it. @throws one error that lists everything found
[[nodiscard]] std::shared_ptr<const Tables> read_tables(const std::filesystem::path& root);

}  // namespace thaw::lerobot
