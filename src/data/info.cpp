#include <fmt/format.h>

#include <cmath>
#include <map>

#include "info_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/core/log.h"

namespace thaw::lerobot {
namespace {

constexpr const char* kWhere = "meta/info.json";
constexpr std::int64_t kMaxElements = std::int64_t{1} << 24;  // of one numeric feature of one frame
constexpr std::int64_t kMaxSide = 16384;                      // pixels
constexpr std::size_t kMaxFeatures = 10'000;

std::string field(const std::string& name) { return fmt::format("{} '{}'", kWhere, name); }

[[noreturn]] void refuse_version(const std::string& version) {
  std::string fix = "This thaw does not know that format.";
  if (version.starts_with("v2.0")) {
    fix = "Convert it with a LeRobot 0.3 release: lerobot/datasets/v21/convert_dataset_v20_to_v21.py.";
  } else if (version.starts_with("v1.")) {
    fix = "Convert it with an old LeRobot release to v2.0 and from there to v2.1.";
  } else if (version.starts_with("v2.")) {
    fix = "Convert it with LeRobot: lerobot/scripts/convert_dataset_v21_to_v30.py.";
  }
  throw FormatError(Problem{
      .where = field("codebase_version"), .expected = "v3.0 or v2.1", .found = "'" + version + "'", .fix = fix});
}

void read_version(const Json& json, DatasetInfo& info) {
  info.version = json_field<std::string>(json, "codebase_version", kWhere);
  info.is_v3 = info.version.starts_with("v3.");
  if (!info.is_v3 && info.version != "v2.1") refuse_version(info.version);
  if (info.is_v3 && info.version != "v3.0") {
    log_warning(fmt::format("dataset format {} is newer than v3.0: what is new in it is ignored", info.version));
  }
}

std::int64_t read_count(const Json& json, const char* name, std::int64_t least) {
  const auto count = json_field<std::int64_t>(json, name, kWhere);
  if (count >= least) return count;
  throw FormatError(Problem{
      .where = field(name), .expected = fmt::format("a count of at least {}", least), .found = std::to_string(count)});
}

double read_fps(const Json& json) {
  const auto fps = json_field<double>(json, "fps", kWhere);
  if (std::isfinite(fps) && fps > 0.0 && fps <= 10'000.0) return fps;
  throw FormatError(
      Problem{.where = field("fps"), .expected = "frames a second, above 0", .found = fmt::format("{}", fps)});
}

void read_templates(const Json& json, DatasetInfo& info) {
  const std::vector<std::string> numbers = info.is_v3 ? std::vector<std::string>{"chunk_index", "file_index"}
                                                      : std::vector<std::string>{"episode_chunk", "episode_index"};
  info.data_path = PathTemplate(json_field<std::string>(json, "data_path", kWhere), numbers, field("data_path"));
  const auto video_path = json_field_or<std::string>(json, "video_path", "", kWhere);
  if (!video_path.empty()) info.video_path = PathTemplate(video_path, numbers, field("video_path"));
}

// --- features ---

const std::map<std::string, at::ScalarType>& numeric_types() {
  static const std::map<std::string, at::ScalarType> types{
      {"float16", at::kHalf}, {"float32", at::kFloat}, {"float64", at::kDouble}, {"bool", at::kBool},
      {"int8", at::kChar},    {"int16", at::kShort},   {"int32", at::kInt},      {"int64", at::kLong},
      {"uint8", at::kByte},   {"uint16", at::kInt},    {"uint32", at::kLong}};
  return types;
}

std::vector<std::int64_t> read_shape(const Json& feature, const std::string& where) {
  const auto shape = json_field<std::vector<std::int64_t>>(feature, "shape", where);
  std::int64_t elements = 1;
  bool possible = !shape.empty() && shape.size() <= 5;
  for (const std::int64_t extent : shape) {
    possible = possible && extent > 0 && extent <= kMaxElements / elements;
    if (possible) elements *= extent;
  }
  if (possible) return shape;
  throw FormatError(
      Problem{.where = where,
              .expected = fmt::format("a shape of 1 to 5 positive sizes, at most {} elements", kMaxElements),
              .found = feature.at("shape").dump().substr(0, 80)});
}

std::string name_at(const Json& feature, std::size_t axis) {
  const auto names = feature.find("names");
  if (names == feature.end() || !names->is_array() || names->size() <= axis || !(*names)[axis].is_string()) return {};
  return (*names)[axis].get<std::string>();
}

bool names_channels(const std::string& name) { return name == "channel" || name == "channels"; }

/// (C, H, W) of a camera, declared as (H, W, C) or (C, H, W): the axis names decide, else the place of a 3 or a 1.
std::vector<std::int64_t> camera_shape(const Json& feature, const std::vector<std::int64_t>& declared,
                                       const std::string& where) {
  if (declared.size() != 3) {
    throw FormatError(Problem{.where = where,
                              .expected = "a camera shape of height, width and channels",
                              .found = fmt::format("[{}]", fmt::join(declared, ", "))});
  }
  const auto could_be_channels = [](std::int64_t size) { return size == 3 || size == 1; };
  const bool named_last = names_channels(name_at(feature, 2));
  const bool first = !named_last && (names_channels(name_at(feature, 0)) ||
                                     (could_be_channels(declared[0]) && !could_be_channels(declared[2])));
  const std::vector<std::int64_t> shape =
      first ? declared : std::vector<std::int64_t>{declared[2], declared[0], declared[1]};
  if (shape[1] > kMaxSide || shape[2] > kMaxSide) {
    throw FormatError(Problem{.where = where,
                              .expected = fmt::format("a camera of at most {0} x {0} pixels", kMaxSide),
                              .found = fmt::format("{} x {}", shape[1], shape[2])});
  }
  return shape;
}

bool flagged_as_depth(const Json& feature) {
  for (const char* block : {"info", "video_info"}) {
    const auto found = feature.find(block);
    if (found == feature.end() || !found->is_object()) continue;
    for (const char* flag : {"is_depth_map", "video.is_depth_map"}) {
      if (json_field_or<bool>(*found, flag, false, kWhere)) return true;
    }
  }
  return false;
}

void read_camera(const Json& feature, const std::string& dtype, const std::string& where, FeatureSpec& spec) {
  spec.dtype = at::kByte;
  spec.shape = camera_shape(feature, spec.shape, where);
  spec.kind = dtype == "video" ? FeatureSpec::Kind::video : FeatureSpec::Kind::image;
  if (spec.shape[0] == 3 && !flagged_as_depth(feature)) return;
  spec.kind = FeatureSpec::Kind::ignored;
  log_warning(fmt::format("camera '{}' is no RGB camera (a depth map?): it is left out", spec.name));
}

FeatureSpec read_feature(const std::string& name, const Json& feature) {
  const std::string where = fmt::format("{} feature '{}'", kWhere, name);
  if (name.empty() || name.find('/') != std::string::npos) {
    throw FormatError(Problem{.where = where, .expected = "a name without '/'", .found = "'" + name + "'"});
  }
  FeatureSpec spec{.name = name};
  const auto dtype = json_field<std::string>(feature, "dtype", where);
  if (dtype == "string" || dtype == "language") {
    spec.kind = FeatureSpec::Kind::ignored;
    return spec;
  }
  spec.shape = read_shape(feature, where);
  if (dtype == "video" || dtype == "image") {
    read_camera(feature, dtype, where, spec);
    return spec;
  }
  const auto type = numeric_types().find(dtype);
  if (type == numeric_types().end()) {
    throw FormatError(Problem{.where = where,
                              .expected =
                                  "a dtype among float16/32/64, int8/16/32/64, uint8/16/32, bool, string, language, "
                                  "image, video",
                              .found = "'" + dtype + "'"});
  }
  spec.dtype = type->second;
  return spec;
}

void read_features(const Json& json, DatasetInfo& info) {
  const auto features = json_field<Json>(json, "features", kWhere);
  if (!features.is_object() || features.empty() || features.size() > kMaxFeatures) {
    throw FormatError(Problem{.where = field("features"),
                              .expected = fmt::format("an object of 1 to {} features", kMaxFeatures),
                              .found = features.is_object() ? std::to_string(features.size()) : features.type_name()});
  }
  for (const auto& [name, feature] : features.items()) info.features.push_back(read_feature(name, feature));
}

}  // namespace

DatasetInfo read_info(const std::filesystem::path& root) {
  const Json json = read_json(root / "meta" / "info.json");
  DatasetInfo info;
  read_version(json, info);
  info.fps = read_fps(json);
  info.total_episodes = read_count(json, "total_episodes", 1);
  info.total_frames = read_count(json, "total_frames", 1);
  info.total_tasks = read_count(json, "total_tasks", 0);
  info.chunks_size = read_count(json, "chunks_size", 1);
  read_templates(json, info);
  read_features(json, info);
  return info;
}

}  // namespace thaw::lerobot
