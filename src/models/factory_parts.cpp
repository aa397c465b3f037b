#include "factory_parts_impl.h"

namespace thaw::models {

void set_width(Features& features, const std::string& name, FeatureType type, std::int64_t width) {
  const auto found =
      std::find_if(features.begin(), features.end(), [&name](const Feature& f) { return f.name == name; });
  if (found != features.end()) {
    found->shape = {width};
  } else {
    features.push_back({.name = name, .type = type, .shape = {width}});
  }
}

Features with_cameras(const Features& inputs, const Features& cameras) {
  for (const Feature& camera : cameras) {
    if (camera.type == FeatureType::visual) continue;
    throw UsageError(Problem{.where = "cameras." + camera.name,
                             .expected = "a visual feature",
                             .found = std::string(feature_type_name(camera.type))});
  }
  Features features = cameras;
  std::copy_if(inputs.begin(), inputs.end(), std::back_inserter(features),
               [](const Feature& feature) { return feature.type != FeatureType::visual; });
  return features;
}

NormalizerOptions normalizer_options(const std::vector<NormalizationEntry>& normalization, Features features,
                                     const Statistics& statistics) {
  NormalizerOptions options{.features = std::move(features), .statistics = statistics};
  for (const NormalizationEntry& entry : normalization) {
    options.norm_map[parse_feature_type(entry.type)] = parse_normalization_mode(entry.mode);
  }
  return options;
}

std::vector<std::string> names_of(const Features& features) {
  std::vector<std::string> names;
  names.reserve(features.size());
  for (const Feature& feature : features) names.push_back(feature.name);
  return names;
}

Processors read_processors(const std::filesystem::path& folder, const TokenizerSearch& tokenizers,
                           Processors fallback) {
  if (std::filesystem::exists(folder / "policy_preprocessor.json")) {
    fallback.preprocessor = ProcessorPipeline::load(folder, "policy_preprocessor", tokenizers);
  }
  if (std::filesystem::exists(folder / "policy_postprocessor.json")) {
    fallback.postprocessor = ProcessorPipeline::load(folder, "policy_postprocessor", tokenizers);
  }
  return fallback;
}

}  // namespace thaw::models
