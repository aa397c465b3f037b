/// Features of a policy or dataset: what a named tensor means and its shape without batch and time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thaw {

/// LeRobot's FeatureType (lerobot/configs/types.py).
enum class FeatureType { visual, state, action, environment, other };

/// "VISUAL", "STATE", "ACTION", "ENV". @throws UsageError for another word
[[nodiscard]] FeatureType parse_feature_type(std::string_view text);
[[nodiscard]] std::string_view feature_type_name(FeatureType type);

struct Feature {
  std::string name;  ///< LeRobot key, e.g. "observation.images.front"
  FeatureType type = FeatureType::other;
  std::vector<std::int64_t> shape;  ///< images (C, H, W); vectors (D)
};

/// In the order of config.json: for cameras that order is the order in the model's input.
using Features = std::vector<Feature>;

[[nodiscard]] const Feature* find_feature(const Features& features, std::string_view name);
/// Those of one type, in order.
[[nodiscard]] Features features_of_type(const Features& features, FeatureType type);

}  // namespace thaw
