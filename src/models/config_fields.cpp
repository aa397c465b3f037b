#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "config_fields_impl.h"
#include "thaw/core/error.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::models {
namespace {

constexpr const char* kEmptyCamera = "observation.images.empty_camera_";
constexpr std::int64_t kMostEmptyCameras = 64;

bool same_features(const Features& a, const Features& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Feature& x, const Feature& y) {
    return x.name == y.name && x.type == y.type && x.shape == y.shape;
  });
}

}  // namespace

void FieldCheck::refuse(const std::string& field, const std::string& expected, const std::string& found) const {
  throw UsageError(
      Problem{.where = fmt::format("{} configuration, {}", model_, field), .expected = expected, .found = found});
}

void FieldCheck::require(bool condition, const std::string& field, const std::string& expected,
                         const std::string& found) const {
  if (!condition) refuse(field, expected, found);
}

void FieldCheck::range(const std::string& field, std::int64_t value, std::int64_t least, std::int64_t most) const {
  require(value >= least && value <= most, field, fmt::format("{}..{}", least, most), std::to_string(value));
}

void FieldCheck::multiple(const std::string& field, std::int64_t value, const std::string& divisor_field,
                          std::int64_t divisor) const {
  require(value % divisor == 0, field, fmt::format("a multiple of {} ({})", divisor_field, divisor),
          std::to_string(value));
}

void FieldCheck::not_negative(const std::string& field, double value) const {
  require(value >= 0.0, field, "a number that is not negative", std::to_string(value));
}

void FieldCheck::cameras(const Features& features) const {
  for (const Feature& feature : features) {
    if (feature.type != FeatureType::visual) continue;
    const bool is_image = feature.shape.size() == 3 && feature.shape.front() == 3;
    require(is_image, "input_features." + feature.name, "a shape (3, height, width)",
            fmt::format("({})", fmt::join(feature.shape, ", ")));
  }
}

void FieldCheck::normalization(const std::vector<NormalizationEntry>& entries) const {
  for (const NormalizationEntry& entry : entries) {
    static_cast<void>(parse_feature_type(entry.type));
    static_cast<void>(parse_normalization_mode(entry.mode));
  }
}

void FieldCheck::periods(double min_period, double max_period) const {
  require(min_period > 0.0 && max_period >= min_period && std::isfinite(max_period), "min_period, max_period",
          "0 < min_period <= max_period", fmt::format("{} and {}", min_period, max_period));
}

void FieldCheck::siglip(const SiglipConfig& vision, const std::string& section) const {
  range(section + ".hidden_size", vision.hidden_size, 1, 1 << 16);
  range(section + ".intermediate_size", vision.intermediate_size, 1, 1 << 18);
  range(section + ".num_hidden_layers", vision.layers, 1, 1 << 10);
  range(section + ".num_attention_heads", vision.heads, 1, 1 << 10);
  range(section + ".patch_size", vision.patch_size, 1, 1 << 10);
  range(section + ".image_size", vision.image_size, vision.patch_size, 1 << 14);
  multiple(section + ".hidden_size", vision.hidden_size, "num_attention_heads", vision.heads);
  not_negative(section + ".layer_norm_eps", vision.layer_norm_eps);
}

Features read_features(const Json& config, const char* key, const std::string& where) {
  Features features;
  const Json entries = json_field_or<Json>(config, key, Json::object(), where);
  if (!entries.is_object()) throw FormatError(Problem{.where = where + ", " + key, .expected = "an object"});
  for (const auto& [name, entry] : entries.items()) {
    const std::string entry_where = where + ", " + key + "." + name;
    Feature feature{.name = name,
                    .type = parse_feature_type(json_field<std::string>(entry, "type", entry_where)),
                    .shape = json_field<std::vector<std::int64_t>>(entry, "shape", entry_where)};
    for (const std::int64_t size : feature.shape) {
      if (size < 0 || size > (1 << 24)) {
        throw FormatError(Problem{.where = entry_where, .expected = "sizes in 0..2^24", .found = std::to_string(size)});
      }
    }
    features.push_back(std::move(feature));
  }
  return features;
}

void read_normalization(const Json& config, std::vector<NormalizationEntry>& entries, const std::string& where) {
  const Json map = json_field_or<Json>(config, "normalization_mapping", Json(), where);
  if (map.is_null()) return;
  if (!map.is_object()) throw FormatError(Problem{.where = where + ", normalization_mapping", .expected = "an object"});
  entries.clear();
  for (const auto& [type, mode] : map.items()) {
    entries.push_back({.type = type, .mode = json_field<std::string>(map, type, where + ", normalization_mapping")});
  }
}

void read_training(const Json& json, TrainingPreset& preset, const std::string& where) {
  read_field(json, "optimizer_lr", preset.learning_rate, where);
  read_field(json, "optimizer_eps", preset.eps, where);
  read_field(json, "optimizer_weight_decay", preset.weight_decay, where);
  read_field(json, "optimizer_grad_clip_norm", preset.grad_clip_norm, where);
  read_field(json, "scheduler_warmup_steps", preset.warmup_steps, where);
  read_field(json, "scheduler_decay_steps", preset.decay_steps, where);
  read_field(json, "scheduler_decay_lr", preset.decay_learning_rate, where);
  const auto betas = json_field_or<std::vector<double>>(json, "optimizer_betas", {preset.beta1, preset.beta2}, where);
  if (betas.size() != 2) throw FormatError(Problem{.where = where + ", optimizer_betas", .expected = "two numbers"});
  preset.beta1 = betas[0];
  preset.beta2 = betas[1];
}

void add_empty_cameras(Features& features, std::int64_t count, const std::vector<std::int64_t>& shape) {
  for (std::int64_t i = 0; i < std::min(count, kMostEmptyCameras); ++i) {
    const std::string name = kEmptyCamera + std::to_string(i);
    if (find_feature(features, name) != nullptr) continue;
    features.push_back({.name = name, .type = FeatureType::visual, .shape = shape});
  }
}

Json features_json(const Features& features) {
  Json json = Json::object();
  for (const Feature& feature : features) {
    json[feature.name] = {{"type", std::string(feature_type_name(feature.type))}, {"shape", feature.shape}};
  }
  return json;
}

Json normalization_json(const std::vector<NormalizationEntry>& entries) {
  Json json = Json::object();
  for (const NormalizationEntry& entry : entries) json[entry.type] = entry.mode;
  return json;
}

Json with_changed_fields(Json json, const ChangedFields& changed) {
  const std::string where = "config.json as read";
  if (!same_features(read_features(json, "input_features", where), changed.inputs)) {
    json["input_features"] = features_json(changed.inputs);
  }
  if (!same_features(read_features(json, "output_features", where), changed.outputs)) {
    json["output_features"] = features_json(changed.outputs);
  }
  const auto update = [&](const char* key, std::int64_t value) {
    if (json_field_or<std::int64_t>(json, key, changed.absent_size, where) != value) json[key] = value;
  };
  update("chunk_size", changed.chunk_size);
  update("n_action_steps", changed.n_action_steps);
  return json;
}

std::vector<std::string> camera_names(const Features& features) {
  std::vector<std::string> names;
  for (const Feature& feature : features) {
    if (feature.type == FeatureType::visual) names.push_back(feature.name);
  }
  return names;
}

std::int64_t feature_width(const Features& features, std::string_view name) {
  const Feature* feature = find_feature(features, name);
  return feature == nullptr || feature->shape.empty() ? 0 : feature->shape.back();
}

}  // namespace thaw::models
