/// Steps of making a policy that the models share: what options do to a configuration, and processors from a folder or
/// from the configuration. `Config` is a model's configuration (SmolVLAConfig, Pi0Config).
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "thaw/core/error.h"
#include "thaw/models/normalization_entry.h"
#include "thaw/models/registry.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::models {

/// Gives the feature this width, behind the others when it is new.
void set_width(Features& features, const std::string& name, FeatureType type, std::int64_t width);

/// `inputs` with these cameras in place of its own, in front of the other features as LeRobot lists them.
/// @throws UsageError for one that is no camera
[[nodiscard]] Features with_cameras(const Features& inputs, const Features& cameras);

/// How a normaliser step is told to treat features of these types.
[[nodiscard]] NormalizerOptions normalizer_options(const std::vector<NormalizationEntry>& normalization,
                                                   Features features, const Statistics& statistics);

/// What the options of init_policy ask for; widths that do not fit grow the model.
template <class Config>
void apply_options(Config& config, const InitOptions& options) {
  if (!options.cameras.empty()) config.input_features = with_cameras(config.input_features, options.cameras);
  if (options.state_dim) {
    set_width(config.input_features, "observation.state", FeatureType::state, *options.state_dim);
  }
  if (options.action_dim) set_width(config.output_features, "action", FeatureType::action, *options.action_dim);
  if (options.chunk_size) {
    config.chunk_size = *options.chunk_size;
    config.n_action_steps = std::min(config.n_action_steps, config.chunk_size);
  }
  config.max_state_dim = std::max(config.max_state_dim, config.state_dim());
  config.max_action_dim = std::max(config.max_action_dim, config.action_dim());
}

/// Input features, then output features.
template <class Config>
[[nodiscard]] Features all_features(const Config& config) {
  Features features = config.input_features;
  features.insert(features.end(), config.output_features.begin(), config.output_features.end());
  return features;
}

/// Names of all_features().
[[nodiscard]] std::vector<std::string> names_of(const Features& features);

/// Both pipelines of a policy.
struct Processors {
  ProcessorPipeline preprocessor;
  ProcessorPipeline postprocessor;
};

/// Those of the folder, each from `fallback` where the folder has none.
[[nodiscard]] Processors read_processors(const std::filesystem::path& folder, const TokenizerSearch& tokenizers,
                                         Processors fallback);

/// Puts other output features into the configuration and the processors; nothing when `features` is empty.
template <class Config>
void replace_output_features(Config& config, const Features& features, Processors& processors) {
  if (features.empty()) return;
  config.output_features = features;
  config.validate();
  processors.preprocessor.set_features(all_features(config));
  processors.postprocessor.set_features(features);
}

}  // namespace thaw::models
