#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <array>

#include "processor_steps_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

struct NamedMode {
  NormalizationMode mode;
  std::string_view name;
};

constexpr std::array<NamedMode, 5> kModes{{{NormalizationMode::identity, "IDENTITY"},
                                           {NormalizationMode::mean_std, "MEAN_STD"},
                                           {NormalizationMode::min_max, "MIN_MAX"},
                                           {NormalizationMode::quantiles, "QUANTILES"},
                                           {NormalizationMode::quantile10, "QUANTILE10"}}};

}  // namespace

NormalizationMode parse_normalization_mode(std::string_view text) {
  std::vector<std::string> known;
  for (const NamedMode& entry : kModes) {
    if (entry.name == text) return entry.mode;
    known.emplace_back(entry.name);
  }
  throw UsageError(Problem{.where = "normalisation mode",
                           .expected = "IDENTITY, MEAN_STD, MIN_MAX, QUANTILES or QUANTILE10",
                           .found = "'" + std::string(text) + "'",
                           .fix = suggest(text, known)});
}

std::string_view normalization_mode_name(NormalizationMode mode) {
  return std::find_if(kModes.begin(), kModes.end(), [mode](const NamedMode& entry) { return entry.mode == mode; })
      ->name;
}

void NormalizerOptions::validate() const {
  if (eps >= 0.0) return;  // false for NaN
  throw UsageError(Problem{.where = "normaliser: eps", .expected = "at least 0", .found = std::to_string(eps)});
}

namespace detail {
namespace {

Json to_json(const Features& features) {
  Json object = Json::object();
  for (const Feature& feature : features) {
    object[feature.name] = Json{{"type", feature_type_name(feature.type)}, {"shape", feature.shape}};
  }
  return object;
}

Json to_json(const NormalizerOptions& options) {
  Json norm_map = Json::object();
  for (const auto& [type, mode] : options.norm_map) norm_map[feature_type_name(type)] = normalization_mode_name(mode);
  Json config{{"eps", options.eps}, {"features", to_json(options.features)}, {"norm_map", norm_map}};
  if (options.normalize_observation_keys) {
    std::vector<std::string> keys = *options.normalize_observation_keys;
    std::sort(keys.begin(), keys.end());
    config["normalize_observation_keys"] = keys;
  }
  return config;
}

/// Words of a file: a wrong one is the file's fault, not the user's.
template <class Parse>
auto parse_word(Parse parse, const std::string& word, const std::string& where) {
  try {
    return parse(word);
  } catch (const UsageError& error) {
    throw FormatError(where + ": " + error.what());
  }
}

Json object_field(const Json& config, const char* key, const std::string& where) {
  Json object = json_field_or<Json>(config, key, Json::object(), where);
  if (object.is_object()) return object;
  throw FormatError(
      Problem{.where = where + ", field '" + key + "'", .expected = "an object", .found = object.type_name()});
}

Features parse_features(const Json& config, const std::string& where) {
  Features features;
  const Json object = object_field(config, "features", where);
  for (const auto& [name, entry] : object.items()) {
    const std::string at = where + ", feature '" + name + "'";
    const auto type = json_field<std::string>(entry, "type", at);
    features.push_back({.name = name,
                        .type = parse_word(parse_feature_type, type, at),
                        .shape = json_field<std::vector<std::int64_t>>(entry, "shape", at)});
  }
  return features;
}

std::map<FeatureType, NormalizationMode> parse_norm_map(const Json& config, const std::string& where) {
  std::map<FeatureType, NormalizationMode> norm_map;
  const Json object = object_field(config, "norm_map", where);
  for (const auto& [type, mode] : object.items()) {
    norm_map[parse_word(parse_feature_type, type, where)] =
        parse_word(parse_normalization_mode, json_field<std::string>(object, type, where), where);
  }
  return norm_map;
}

/// "observation.state.mean" -> ["observation.state"]["mean"], as float32: what LeRobot loads.
Statistics parse_state(const std::map<std::string, at::Tensor>& state, const std::string& where) {
  Statistics statistics;
  for (const auto& [key, tensor] : state) {
    const std::size_t dot = key.rfind('.');
    if (dot == std::string::npos || dot == 0 || dot + 1 == key.size()) {
      throw FormatError(Problem{.where = where + ", state file",
                                .expected = "tensors named <feature>.<statistic>",
                                .found = "'" + key + "'"});
    }
    statistics[key.substr(0, dot)][key.substr(dot + 1)] = tensor.to(at::kFloat);
  }
  return statistics;
}

NormalizerOptions parse_options(const StepSource& source) {
  const Json& config = source.config;
  check_config_keys(config, {"eps", "features", "norm_map", "normalize_observation_keys"}, source.where);
  NormalizerOptions options;
  options.eps = json_field_or(config, "eps", options.eps, source.where);
  options.features = parse_features(config, source.where);
  options.norm_map = parse_norm_map(config, source.where);
  options.statistics = parse_state(source.state, source.where);
  if (config.contains("normalize_observation_keys") && !config["normalize_observation_keys"].is_null()) {
    options.normalize_observation_keys =
        json_field<std::vector<std::string>>(config, "normalize_observation_keys", source.where);
  }
  if (options.eps < 0.0) {
    throw FormatError(Problem{
        .where = source.where + ", field 'eps'", .expected = "at least 0", .found = std::to_string(options.eps)});
  }
  return options;
}

/// What the formulas of a mode read.
struct Range {
  const char* low;
  const char* high;
};

Range range_of(NormalizationMode mode) {
  switch (mode) {
    case NormalizationMode::min_max:
      return {"min", "max"};
    case NormalizationMode::quantiles:
      return {"q01", "q99"};
    default:
      return {"q10", "q90"};
  }
}

using FeatureStatistics = std::map<std::string, at::Tensor>;

/// The statistic in the tensor's dtype and device, checked to broadcast to the tensor's shape.
at::Tensor statistic_for(const at::Tensor& tensor, const std::string& key, FeatureType type,
                         const FeatureStatistics& statistics, const char* name, NormalizationMode mode) {
  const auto found = statistics.find(name);
  if (found == statistics.end()) {
    throw MismatchError(Problem{.where = "normaliser, '" + key + "'",
                                .expected = "the statistic '" + std::string(name) + "' that " +
                                            std::string(normalization_mode_name(mode)) + " needs",
                                .found = "none",
                                .fix = "Recompute the dataset's statistics or choose another mode."});
  }
  at::Tensor value = found->second;
  const bool per_channel = type == FeatureType::visual && value.dim() == 1;
  if (per_channel) value = value.reshape({-1, 1, 1});
  if (!at::is_expandable_to(value.sizes(), tensor.sizes())) {
    throw MismatchError(Problem{.where = "normaliser, '" + key + "'",
                                .expected = c10::str("statistics for the shape ", tensor.sizes()),
                                .found = c10::str("'", name, "' of the shape ", value.sizes()),
                                .fix = "Use the statistics of the dataset that the tensor comes from."});
  }
  return value.to(tensor.device(), tensor.scalar_type());
}

}  // namespace

NormalizerStep::NormalizerStep(Direction direction, NormalizerOptions options)
    : ConfiguredStep(to_json(options)), direction_(direction), options_(std::move(options)) {}

NormalizerStep::NormalizerStep(Direction direction, const StepSource& source)
    : ConfiguredStep(source.config), direction_(direction), options_(parse_options(source)) {}

std::string NormalizerStep::registry_name() const {
  return direction_ == Direction::forward ? "normalizer_processor" : "unnormalizer_processor";
}

std::map<std::string, at::Tensor> NormalizerStep::state() const {
  std::map<std::string, at::Tensor> state;
  for (const auto& [feature, statistics] : options_.statistics) {
    const Feature* known = find_feature(options_.features, feature);
    const bool visual = known != nullptr && known->type == FeatureType::visual;
    for (const auto& [name, value] : statistics) {
      const at::Tensor saved = value.to(at::kCPU, at::kFloat);
      state[feature + "." + name] = visual && saved.dim() == 1 ? saved.reshape({-1, 1, 1}) : saved;
    }
  }
  return state;
}

void NormalizerStep::set_statistics(const Statistics& statistics) { options_.statistics = statistics; }

void NormalizerStep::set_features(const Features& features) {
  options_.features = features;
  config_["features"] = to_json(features);
}

void NormalizerStep::apply(Batch& batch) const {
  const auto& only = options_.normalize_observation_keys;
  for (const Feature& feature : options_.features) {
    if (feature.type == FeatureType::action || !batch.has(feature.name)) continue;
    if (only && std::find(only->begin(), only->end(), feature.name) == only->end()) continue;
    at::Tensor& tensor = batch.tensors[feature.name];
    tensor = transform(tensor, feature.name, feature.type);
  }
  if (batch.has(kActionKey)) {
    at::Tensor& action = batch.tensors[kActionKey];
    action = transform(action, kActionKey, FeatureType::action);
  }
}

/// The order of operations is the reference's (_NormalizationMixin._apply_transform): results agree to the last bit.
at::Tensor NormalizerStep::transform(const at::Tensor& input, const std::string& key, FeatureType type) const {
  const auto mode_entry = options_.norm_map.find(type);
  const auto statistics = options_.statistics.find(key);
  if (mode_entry == options_.norm_map.end() || statistics == options_.statistics.end()) return input;
  const NormalizationMode mode = mode_entry->second;
  if (mode == NormalizationMode::identity) return input;
  const at::Tensor tensor = input.is_floating_point() ? input : input.to(at::kFloat);
  const auto get = [&](const char* name) { return statistic_for(tensor, key, type, statistics->second, name, mode); };

  const bool inverse = direction_ == Direction::inverse;
  if (mode == NormalizationMode::mean_std) {
    const at::Tensor mean = get("mean");
    const at::Tensor std = get("std");
    return inverse ? tensor * std + mean : (tensor - mean) / (std + options_.eps);
  }
  const Range range = range_of(mode);
  const at::Tensor low = get(range.low);
  const at::Tensor width = get(range.high) - low;
  const at::Tensor safe = at::where(width == 0, at::scalar_tensor(options_.eps, width.options()), width);
  if (!inverse) return 2.0 * (tensor - low) / safe - 1.0;
  return mode == NormalizationMode::min_max ? (tensor + 1.0) / 2.0 * safe + low : (tensor + 1.0) * safe / 2.0 + low;
}

}  // namespace detail

std::shared_ptr<ProcessorStep> make_normalizer_step(NormalizerOptions options) {
  options.validate();
  return std::make_shared<detail::NormalizerStep>(detail::NormalizerStep::Direction::forward, std::move(options));
}

std::shared_ptr<ProcessorStep> make_unnormalizer_step(NormalizerOptions options) {
  options.validate();
  return std::make_shared<detail::NormalizerStep>(detail::NormalizerStep::Direction::inverse, std::move(options));
}

}  // namespace thaw
