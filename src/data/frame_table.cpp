#include <ATen/ops/cat.h>
#include <fmt/format.h>

#include <cmath>
#include <set>

#include "frame_table_impl.h"
#include "parquet_impl.h"
#include "thaw/core/files.h"

namespace thaw::lerobot {
namespace {

/// Columns every LeRobotDataset has; the sampler and the task text rely on them.
constexpr const char* kRequired[] = {"timestamp", "frame_index", "episode_index", "index", "task_index"};

std::int64_t rows_of(const DataFile& file, const std::vector<EpisodeRow>& episodes) {
  const EpisodeRow& last = episodes[file.first_episode + file.episodes - 1];
  return last.from + last.length - episodes[file.first_episode].from;
}

/// Empty when they cannot be grouped. Consecutive episodes in one file make one DataFile. LeRobot takes row n of all
/// files for frame n, so must they.
std::vector<DataFile> group_files(const std::filesystem::path& root, const std::vector<EpisodeRow>& episodes,
                                  Findings& findings) {
  std::vector<DataFile> files;
  std::set<std::string> seen;
  for (std::size_t i = 0; i < episodes.size(); ++i) {
    const std::string& label = episodes[i].data_file;
    if (!files.empty() && files.back().label == label) {
      ++files.back().episodes;
      continue;
    }
    if (!seen.insert(label).second) {
      findings.disagree({.where = fmt::format("meta/episodes episode {}", i),
                         .expected = fmt::format("the episodes of {} one after the other", label),
                         .found = "episodes of other files between them"});
      return {};
    }
    DataFile file{.label = label, .first_episode = i, .episodes = 1};
    const bool resolved =
        findings.attempt([&] { file.path = resolve_beneath(root, label, "meta/info.json 'data_path'"); });
    if (!resolved) return {};
    files.push_back(std::move(file));
  }
  return files;
}

/// Whether all of them are declared.
bool check_required(const DatasetInfo& info, Findings& findings) {
  bool all = true;
  for (const char* name : kRequired) {
    const bool there = std::any_of(info.features.begin(), info.features.end(), [name](const FeatureSpec& feature) {
      return feature.name == name && feature.kind == FeatureSpec::Kind::numeric &&
             feature.shape == std::vector<std::int64_t>{1};
    });
    if (there) continue;
    all = false;
    findings.disagree({.where = "meta/info.json 'features'",
                       .expected = fmt::format("'{}', a number with shape [1], as in every LeRobotDataset", name),
                       .found = "none"});
  }
  return all;
}

/// The running numbers of one file's rows against the episode table.
class RowCheck {
 public:
  RowCheck(const DataFile& file, const std::vector<EpisodeRow>& episodes, const DatasetInfo& info, std::size_t tasks)
      : file_(file), episodes_(episodes), info_(info), tasks_(static_cast<std::int64_t>(tasks)) {}

  void run(const std::map<std::string, at::Tensor>& columns) const {
    check_numbers("index", columns, [](const EpisodeRow& row, std::int64_t frame) { return row.from + frame; });
    check_numbers("episode_index", columns, [](const EpisodeRow& row, std::int64_t) { return row.index; });
    check_numbers("frame_index", columns, [](const EpisodeRow&, std::int64_t frame) { return frame; });
    check_tasks(columns.at("task_index"));
    check_times(columns.at("timestamp"));
  }

 private:
  /// use(row in file, episode, frame in episode)
  template <class Use>
  void for_each_row(Use&& use) const {
    std::int64_t row = 0;
    for (std::size_t e = file_.first_episode; e < file_.first_episode + file_.episodes; ++e) {
      for (std::int64_t frame = 0; frame < episodes_[e].length; ++frame) use(row++, episodes_[e], frame);
    }
  }

  [[noreturn]] void refuse(const char* column, std::int64_t row, const EpisodeRow& episode, const std::string& expected,
                           const std::string& found) const {
    throw MismatchError(
        Problem{.where = fmt::format("{} column '{}' row {} (episode {})", file_.label, column, row, episode.index),
                .expected = expected,
                .found = found});
  }

  template <class Expected>
  void check_numbers(const char* column, const std::map<std::string, at::Tensor>& columns, Expected&& expected) const {
    const at::Tensor numbers = columns.at(column).to(at::kLong);
    const std::int64_t* found = numbers.const_data_ptr<std::int64_t>();
    for_each_row([&](std::int64_t row, const EpisodeRow& episode, std::int64_t frame) {
      const std::int64_t wanted = expected(episode, frame);
      if (found[row] != wanted) refuse(column, row, episode, std::to_string(wanted), std::to_string(found[row]));
    });
  }

  void check_tasks(const at::Tensor& column) const {
    const at::Tensor numbers = column.to(at::kLong);
    const std::int64_t* found = numbers.const_data_ptr<std::int64_t>();
    for_each_row([&](std::int64_t row, const EpisodeRow& episode, std::int64_t /*frame*/) {
      if (found[row] >= 0 && found[row] < tasks_) return;
      refuse("task_index", row, episode, fmt::format("one of the {} tasks in meta/tasks", tasks_),
             std::to_string(found[row]));
    });
  }

  /// Frames are found by number; a recorded time that is another frame's would make LeRobot show another picture.
  void check_times(const at::Tensor& column) const {
    const at::Tensor times = column.to(at::kDouble);
    const double* found = times.const_data_ptr<double>();
    const double half_frame = 0.5 / info_.fps;
    for_each_row([&](std::int64_t row, const EpisodeRow& episode, std::int64_t frame) {
      const double wanted = static_cast<double>(frame) / info_.fps;
      if (std::abs(found[row] - wanted) <= half_frame) return;  // false for NaN
      refuse("timestamp", row, episode, fmt::format("about {:.4f} s (frame_index / fps)", wanted),
             fmt::format("{}", found[row]));
    });
  }

  const DataFile& file_;
  const std::vector<EpisodeRow>& episodes_;
  const DatasetInfo& info_;
  std::int64_t tasks_;
};

/// Reads one file. Every column that cannot be read is a finding; returns an empty map when something was found.
std::map<std::string, at::Tensor> read_file(const DataFile& file, const DatasetInfo& info,
                                            const std::vector<EpisodeRow>& episodes, std::size_t tasks,
                                            Findings& findings) {
  std::map<std::string, at::Tensor> columns;
  bool good = true;
  findings.attempt([&] {
    const ParquetFile table(file.path, file.label);
    const std::int64_t expected = rows_of(file, episodes);
    if (table.rows() != expected) {
      findings.disagree({.where = file.label,
                         .expected = fmt::format("{} rows for episodes {} to {} of the episode table", expected,
                                                 file.first_episode, file.first_episode + file.episodes - 1),
                         .found = std::to_string(table.rows())});
      good = false;
    }
    for (const FeatureSpec& feature : info.features) {
      if (feature.kind == FeatureSpec::Kind::image && !table.holds_blobs(feature.name)) {
        findings.disagree({.where = file.label,
                           .expected = fmt::format("a column '{}' of image bytes (info.json)", feature.name),
                           .found = table.has(feature.name) ? "another type" : "none"});
        good = false;
      }
      if (feature.kind != FeatureSpec::Kind::numeric) continue;
      good = findings.attempt([&] {
        columns[feature.name] = table.numbers({.name = feature.name, .dtype = feature.dtype, .shape = feature.shape});
      }) && good;
    }
    if (good) {
      for (const auto& [name, column] : columns) {
        if (column.size(0) == expected) continue;
        throw MismatchError(Problem{.where = fmt::format("{} column '{}'", file.label, name),
                                    .expected = fmt::format("{} rows", expected),
                                    .found = std::to_string(column.size(0))});
      }
      RowCheck(file, episodes, info, tasks).run(columns);
    }
  });
  return columns;
}

}  // namespace

FrameTable read_frame_table(const std::filesystem::path& root, const DatasetInfo& info,
                            const std::vector<EpisodeRow>& episodes, std::size_t tasks, Findings& findings) {
  FrameTable table;
  if (!check_required(info, findings)) return table;
  table.files = group_files(root, episodes, findings);
  std::map<std::string, std::vector<at::Tensor>> parts;
  for (std::size_t f = 0; f < table.files.size(); ++f) {
    table.file_of_episode.insert(table.file_of_episode.end(), table.files[f].episodes, f);
    for (auto& [name, column] : read_file(table.files[f], info, episodes, tasks, findings))
      parts[name].push_back(column);
  }
  if (!findings.empty()) return table;
  for (auto& [name, columns] : parts) {
    table.columns[name] = columns.size() == 1 ? columns.front() : at::cat(columns);
    columns.clear();
  }
  return table;
}

}  // namespace thaw::lerobot
