#include <fmt/format.h>

#include <algorithm>

#include "findings_impl.h"
#include "stored_statistics_impl.h"
#include "tables_impl.h"

namespace thaw::lerobot {
namespace {

/// As LeRobot's dataset_to_policy_features.
FeatureType type_of(const FeatureSpec& feature) {
  if (feature.is_camera()) return FeatureType::visual;
  if (feature.name.starts_with("observation.environment_state")) return FeatureType::environment;
  if (feature.name.starts_with("observation")) return FeatureType::state;
  if (feature.name.starts_with("action")) return FeatureType::action;
  return FeatureType::other;
}

Features public_features(const DatasetInfo& info) {
  Features features;
  for (const FeatureSpec& spec : info.features) {
    if (spec.kind == FeatureSpec::Kind::ignored) continue;
    features.push_back({.name = spec.name, .type = type_of(spec), .shape = spec.shape});
  }
  return features;
}

void check_folder(const std::filesystem::path& root) {
  std::error_code error;
  if (std::filesystem::is_directory(root / "meta", error)) return;
  throw IoError(Problem{.where = "dataset '" + root.string() + "'",
                        .expected = "a folder with meta/info.json, data/ and, with cameras in video files, videos/",
                        .found = std::filesystem::exists(root, error) ? "no 'meta' folder in it" : "nothing there",
                        .fix = "Give the folder of one LeRobotDataset (v3.0 or v2.1)."});
}

void check_counts(const DatasetInfo& info, const std::vector<EpisodeRow>& episodes, std::size_t tasks,
                  Findings& findings) {
  const auto compare = [&findings](const char* field, std::int64_t stated, std::int64_t counted, const char* where) {
    if (stated == counted) return;
    findings.disagree({.where = fmt::format("meta/info.json '{}'", field),
                       .expected = fmt::format("{}, as in {}", counted, where),
                       .found = std::to_string(stated)});
  };
  const std::int64_t frames = episodes.empty() ? 0 : episodes.back().from + episodes.back().length;
  compare("total_episodes", info.total_episodes, static_cast<std::int64_t>(episodes.size()), "the episode table");
  compare("total_frames", info.total_frames, frames, "the episode table");
  compare("total_tasks", info.total_tasks, static_cast<std::int64_t>(tasks), "the task table");
}

std::vector<Episode> public_episodes(std::vector<EpisodeRow> rows) {
  std::vector<Episode> episodes;
  episodes.reserve(rows.size());
  for (EpisodeRow& row : rows) {
    episodes.push_back(
        {.index = row.index, .from = row.from, .to = row.from + row.length, .tasks = std::move(row.tasks)});
  }
  return episodes;
}

void open_cameras(Tables& tables, const std::vector<EpisodeRow>& episodes, Findings& findings) {
  for (const FeatureSpec& feature : tables.info.features) {
    if (feature.kind == FeatureSpec::Kind::video) {
      tables.cameras[feature.name] = open_video_camera(tables.root, tables.info, feature, episodes, findings);
    } else if (feature.kind == FeatureSpec::Kind::image && !tables.frames.file_of_episode.empty()) {
      tables.cameras[feature.name] = open_image_camera(feature, tables.frames, episodes);
    }
  }
}

}  // namespace

const FeatureSpec* Tables::feature(const std::string& name) const {
  const auto found = std::find_if(info.features.begin(), info.features.end(),
                                  [&name](const FeatureSpec& spec) { return spec.name == name; });
  return found == info.features.end() ? nullptr : &*found;
}

std::shared_ptr<const Tables> read_tables(const std::filesystem::path& root) {
  check_folder(root);
  Findings findings(root);
  auto tables = std::make_shared<Tables>();
  tables->root = root;
  if (!findings.attempt([&] { tables->info = read_info(root); })) findings.throw_if_any();

  findings.attempt([&] { tables->tasks = read_tasks(root, tables->info); });
  std::vector<EpisodeRow> episodes = read_episode_table(root, tables->info, findings);
  findings.throw_if_any();  // without these tables nothing else can be judged

  check_counts(tables->info, episodes, tables->tasks.size(), findings);
  if (episodes.empty()) findings.throw_if_any();
  tables->frames = read_frame_table(root, tables->info, episodes, tables->tasks.size(), findings);
  open_cameras(*tables, episodes, findings);
  findings.attempt([&] { tables->stored_statistics = read_stored_statistics(root, tables->info); });
  findings.throw_if_any();

  const at::Tensor task_of_frame = tables->frames.columns.at("task_index").to(at::kLong);
  const auto* first = task_of_frame.const_data_ptr<std::int64_t>();
  tables->task_of_frame.assign(first, first + task_of_frame.numel());
  tables->features = public_features(tables->info);
  tables->episodes = public_episodes(std::move(episodes));
  return tables;
}

}  // namespace thaw::lerobot
