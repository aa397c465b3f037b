/// Reading, checking and writing the fields that LeRobot's policy configurations have in common.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/models/normalization_entry.h"
#include "thaw/models/siglip_config.h"
#include "thaw/policy/features.h"
#include "thaw/policy/policy.h"

namespace thaw::models {

/// Checks of one configuration's fields. Every refusal is a UsageError that names the model, the field, what would do
/// and what was found.
class FieldCheck {
 public:
  constexpr explicit FieldCheck(std::string_view model) : model_(model) {}

  [[noreturn]] void refuse(const std::string& field, const std::string& expected, const std::string& found) const;
  void require(bool condition, const std::string& field, const std::string& expected, const std::string& found) const;
  void range(const std::string& field, std::int64_t value, std::int64_t least, std::int64_t most) const;
  void multiple(const std::string& field, std::int64_t value, const std::string& divisor_field,
                std::int64_t divisor) const;
  void not_negative(const std::string& field, double value) const;
  /// Shapes of the visual features.
  void cameras(const Features& features) const;
  /// Types and modes of normalization_mapping.
  void normalization(const std::vector<NormalizationEntry>& entries) const;
  /// The periods of the time embedding.
  void periods(double min_period, double max_period) const;
  void siglip(const SiglipConfig& vision, const std::string& section) const;

 private:
  std::string_view model_;
};

/// Sets `value` where the object has the field. @throws FormatError for a field of another type
template <class T>
void read_field(const Json& object, const char* key, T& value, const std::string& where) {
  value = json_field_or<T>(object, key, value, where);
}

[[nodiscard]] Features read_features(const Json& config, const char* key, const std::string& where);
void read_normalization(const Json& config, std::vector<NormalizationEntry>& entries, const std::string& where);
/// optimizer_* and scheduler_*.
void read_training(const Json& json, TrainingPreset& preset, const std::string& where);
/// LeRobot's validate_features: the first `count` cameras "observation.images.empty_camera_<i>" of this shape that are
/// not there yet become features, behind the others.
void add_empty_cameras(Features& features, std::int64_t count, const std::vector<std::int64_t>& shape);

[[nodiscard]] Json features_json(const Features& features);
[[nodiscard]] Json normalization_json(const std::vector<NormalizationEntry>& entries);
/// Fields that may have changed since a configuration was read.
struct ChangedFields {
  const Features& inputs;
  const Features& outputs;
  std::int64_t chunk_size = 0;
  std::int64_t n_action_steps = 0;
  std::int64_t absent_size = 50;  ///< what either means where the field is absent
};
/// `json`, as it was read, with these fields as they are now where they differ.
[[nodiscard]] Json with_changed_fields(Json json, const ChangedFields& changed);

/// Names of the visual features, in order.
[[nodiscard]] std::vector<std::string> camera_names(const Features& features);
/// Last size of the feature; 0 without it.
[[nodiscard]] std::int64_t feature_width(const Features& features, std::string_view name);

}  // namespace thaw::models
