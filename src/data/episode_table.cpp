#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "episode_table_impl.h"
#include "parquet_impl.h"
#include "thaw/core/json.h"

namespace thaw::lerobot {
namespace {

namespace fs = std::filesystem;

constexpr JsonLimits kLineLimits{.max_bytes = std::size_t{1} << 30};  // one short line an episode

// --- v3.0 ---

/// chunk-000/file-000.parquet, … in the order of their numbers (as text, file-1000 would come before file-999).
std::vector<fs::path> episode_files(const fs::path& root) {
  const fs::path folder = root / "meta" / "episodes";
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".parquet") files.push_back(entry->path().lexically_relative(root));
  }
  if (error || files.empty()) {
    throw IoError(Problem{.where = folder.string(),
                          .expected = "the episode table (chunk-000/file-000.parquet, …)",
                          .found = error ? error.message() : "no Parquet file"});
  }
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    const auto key = [](const fs::path& path) { return std::pair(path.string().size(), path.string()); };
    return key(a) < key(b);
  });
  return files;
}

struct SpanColumns {
  std::string camera;
  std::vector<std::int64_t> chunk;
  std::vector<std::int64_t> file;
  std::vector<double> from;
};

SpanColumns read_span_columns(const ParquetFile& table, const std::string& camera) {
  const std::string prefix = "videos/" + camera + "/";
  return {.camera = camera,
          .chunk = table.integers(prefix + "chunk_index"),
          .file = table.integers(prefix + "file_index"),
          .from = table.reals(prefix + "from_timestamp")};
}

std::int64_t file_number(std::int64_t number, const std::string& what) {
  if (number >= 0 && number < 1'000'000'000) return number;
  throw FormatError(Problem{.where = what, .expected = "a number of a file", .found = std::to_string(number)});
}

TemplateValues chunk_and_file(std::int64_t chunk, std::int64_t file, const std::string& where) {
  return {.numbers = {{"chunk_index", file_number(chunk, where)}, {"file_index", file_number(file, where)}}};
}

std::vector<std::string> video_cameras(const DatasetInfo& info) {
  std::vector<std::string> names;
  for (const FeatureSpec& feature : info.features) {
    if (feature.kind == FeatureSpec::Kind::video) names.push_back(feature.name);
  }
  return names;
}

const PathTemplate& video_template(const DatasetInfo& info) {
  if (info.video_path) return *info.video_path;
  throw FormatError(Problem{.where = "meta/info.json 'video_path'",
                            .expected = "a path, since there are features of dtype video",
                            .found = "null"});
}

void append_rows(const fs::path& root, const fs::path& file, const DatasetInfo& info, std::vector<EpisodeRow>& rows) {
  const ParquetFile table(root / file, file.string());
  const auto index = table.integers("episode_index");
  const auto length = table.integers("length");
  const auto from = table.integers("dataset_from_index");
  const auto to = table.integers("dataset_to_index");
  const auto chunk = table.integers("data/chunk_index");
  const auto data_file = table.integers("data/file_index");
  const auto tasks = table.text_lists("tasks");
  std::vector<SpanColumns> cameras;
  for (const std::string& camera : video_cameras(info)) cameras.push_back(read_span_columns(table, camera));

  for (std::size_t i = 0; i < index.size(); ++i) {
    const std::string where = fmt::format("{} episode {}", file.string(), index[i]);
    if (length[i] < 1 || from[i] < 0 || to[i] < from[i] || to[i] - from[i] != length[i]) {
      throw MismatchError(Problem{.where = where,
                                  .expected = fmt::format("a range of {} frames (length)", length[i]),
                                  .found = fmt::format("[{}, {})", from[i], to[i])});
    }
    EpisodeRow row{.index = index[i], .length = length[i], .from = from[i], .tasks = tasks[i]};
    row.data_file = info.data_path.expand(chunk_and_file(chunk[i], data_file[i], where));
    for (const SpanColumns& camera : cameras) {
      if (!std::isfinite(camera.from[i]) || camera.from[i] < 0.0) {
        throw FormatError(Problem{.where = where + " 'from_timestamp' of camera '" + camera.camera + "'",
                                  .expected = "seconds, 0 or more",
                                  .found = fmt::format("{}", camera.from[i])});
      }
      TemplateValues values = chunk_and_file(camera.chunk[i], camera.file[i], where);
      values.video_key = camera.camera;
      row.videos[camera.camera] = {.file = video_template(info).expand(values), .from_timestamp = camera.from[i]};
    }
    rows.push_back(std::move(row));
  }
}

std::vector<EpisodeRow> read_v30(const fs::path& root, const DatasetInfo& info, Findings& findings) {
  std::vector<EpisodeRow> rows;
  findings.attempt([&] {
    for (const fs::path& file : episode_files(root)) {
      findings.attempt([&] { append_rows(root, file, info, rows); });
    }
  });
  return rows;
}

// --- v2.1 ---

EpisodeRow row_of_line(const Json& line, const DatasetInfo& info, std::int64_t from) {
  const std::string where = "meta/episodes.jsonl";
  EpisodeRow row{.index = json_field<std::int64_t>(line, "episode_index", where),
                 .length = json_field<std::int64_t>(line, "length", where),
                 .from = from,
                 .tasks = json_field<std::vector<std::string>>(line, "tasks", where)};
  if (row.length < 1 || row.length > (std::int64_t{1} << 40)) {
    throw FormatError(Problem{.where = fmt::format("{} episode {} 'length'", where, row.index),
                              .expected = "a number of frames",
                              .found = std::to_string(row.length)});
  }
  TemplateValues values{
      .numbers = {{"episode_index", file_number(row.index, where)}, {"episode_chunk", row.index / info.chunks_size}}};
  row.data_file = info.data_path.expand(values);
  for (const std::string& camera : video_cameras(info)) {
    values.video_key = camera;
    row.videos[camera] = {.file = video_template(info).expand(values), .from_timestamp = 0.0};
  }
  return row;
}

std::vector<EpisodeRow> read_v21(const fs::path& root, const DatasetInfo& info, Findings& findings) {
  std::vector<EpisodeRow> rows;
  findings.attempt([&] {
    std::int64_t from = 0;
    for (const Json& line : read_json_lines(root / "meta" / "episodes.jsonl", kLineLimits)) {
      rows.push_back(row_of_line(line, info, from));
      from += rows.back().length;
    }
  });
  return rows;
}

// --- both ---

void check_order(const std::vector<EpisodeRow>& rows, Findings& findings) {
  std::int64_t from = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].index != static_cast<std::int64_t>(i)) {
      findings.disagree({.where = fmt::format("meta/episodes row {} 'episode_index'", i),
                         .expected = fmt::format("{}: episodes are numbered without gaps", i),
                         .found = std::to_string(rows[i].index)});
      return;
    }
    if (rows[i].from != from) {
      findings.disagree({.where = fmt::format("meta/episodes episode {} 'dataset_from_index'", i),
                         .expected = fmt::format("{}, where the episode before ends", from),
                         .found = std::to_string(rows[i].from)});
      return;
    }
    from += rows[i].length;
  }
}

/// Texts by their index. LeRobot looks a task up by row; where the indices are no numbering, so does thaw.
std::vector<std::string> in_order(const std::vector<std::int64_t>& indices, std::vector<std::string> texts) {
  std::vector<std::string> ordered(texts.size());
  std::vector<bool> seen(texts.size(), false);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::int64_t index = indices[i];
    if (index < 0 || index >= static_cast<std::int64_t>(texts.size()) || seen[static_cast<std::size_t>(index)])
      return texts;
    seen[static_cast<std::size_t>(index)] = true;
    ordered[static_cast<std::size_t>(index)] = texts[i];
  }
  return ordered;
}

}  // namespace

std::vector<EpisodeRow> read_episode_table(const fs::path& root, const DatasetInfo& info, Findings& findings) {
  std::vector<EpisodeRow> rows = info.is_v3 ? read_v30(root, info, findings) : read_v21(root, info, findings);
  if (findings.empty()) check_order(rows, findings);
  return rows;
}

std::vector<std::string> read_tasks(const fs::path& root, const DatasetInfo& info) {
  std::vector<std::int64_t> indices;
  std::vector<std::string> texts;
  if (info.is_v3) {
    const ParquetFile table(root / "meta" / "tasks.parquet", "meta/tasks.parquet");
    indices = table.integers("task_index");
    texts = table.texts(table.text_column());
  } else {
    for (const Json& line : read_json_lines(root / "meta" / "tasks.jsonl", kLineLimits)) {
      indices.push_back(json_field<std::int64_t>(line, "task_index", "meta/tasks.jsonl"));
      texts.push_back(json_field<std::string>(line, "task", "meta/tasks.jsonl"));
    }
  }
  return in_order(indices, std::move(texts));
}

}  // namespace thaw::lerobot
