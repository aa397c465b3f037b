#include "thaw/policy/features.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

constexpr std::array<std::pair<FeatureType, std::string_view>, 5> kNames{{
    {FeatureType::visual, "VISUAL"},
    {FeatureType::state, "STATE"},
    {FeatureType::action, "ACTION"},
    {FeatureType::environment, "ENV"},
    {FeatureType::other, "OTHER"},
}};

/// Types LeRobot knows that carry no meaning for thaw.
constexpr std::array<std::string_view, 2> kOther{"REWARD", "LANGUAGE"};

}  // namespace

FeatureType parse_feature_type(std::string_view text) {
  for (const auto& [type, name] : kNames) {
    if (name == text) return type;
  }
  if (std::find(kOther.begin(), kOther.end(), text) != kOther.end()) return FeatureType::other;
  const std::vector<std::string> known{"VISUAL", "STATE", "ACTION", "ENV", "REWARD", "LANGUAGE"};
  throw UsageError(Problem{.where = "feature type",
                           .expected = "VISUAL, STATE, ACTION or ENV",
                           .found = "'" + std::string(text) + "'",
                           .fix = suggest(text, known)});
}

std::string_view feature_type_name(FeatureType type) {
  const auto found = std::find_if(kNames.begin(), kNames.end(), [&](const auto& entry) { return entry.first == type; });
  return found->second;
}

const Feature* find_feature(const Features& features, std::string_view name) {
  const auto found =
      std::find_if(features.begin(), features.end(), [&](const Feature& feature) { return feature.name == name; });
  return found == features.end() ? nullptr : &*found;
}

Features features_of_type(const Features& features, FeatureType type) {
  Features found;
  std::copy_if(features.begin(), features.end(), std::back_inserter(found),
               [type](const Feature& feature) { return feature.type == type; });
  return found;
}

}  // namespace thaw
