#include <fmt/format.h>

#include <algorithm>

#include "../weights_impl.h"
#include "factory_impl.h"
#include "policy_impl.h"
#include "processors_impl.h"
#include "thaw/core/error.h"
#include "thaw/models/smolvla/layout.h"

namespace thaw::smolvla {
namespace {

namespace fs = std::filesystem;

/// smolvla_base as published.
SmolVLAConfig published_config() {
  SmolVLAConfig config;
  for (const char* camera : {"camera1", "camera2", "camera3"}) {
    config.input_features.push_back(
        {.name = std::string("observation.images.") + camera, .type = FeatureType::visual, .shape = {3, 256, 256}});
  }
  config.input_features.push_back({.name = "observation.state", .type = FeatureType::state, .shape = {6}});
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {6}}};
  config.load_vlm_weights = true;
  config.prefix_length = 0;
  config.pad_language_to = "max_length";
  config.num_expert_layers = 0;
  return config;
}

/// The same structure in a few hundred thousand parameters: self and cross layers, grouped heads, a head width that is
/// not hidden / heads.
SmolVLAConfig tiny_config() {
  SmolVLAConfig config;
  config.input_features = {{.name = "observation.images.camera1", .type = FeatureType::visual, .shape = {3, 32, 32}},
                           {.name = "observation.state", .type = FeatureType::state, .shape = {6}}};
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {6}}};
  config.vlm.vision = {
      .hidden_size = 32, .intermediate_size = 64, .layers = 2, .heads = 4, .image_size = 32, .patch_size = 4};
  config.vlm.text = {.hidden_size = 40,
                     .intermediate_size = 64,
                     .layers = 4,
                     .heads = 4,
                     .kv_heads = 2,
                     .head_dim = 16,
                     .vocabulary = 1024};
  config.vlm.scale_factor = 2;
  config.vlm.fake_image_token = 1021;
  config.vlm.global_image_token = 1022;
  config.vlm.image_token = 1023;
  config.chunk_size = config.n_action_steps = 8;
  config.max_state_dim = 12;
  config.max_action_dim = 10;
  config.image_width = config.image_height = 32;
  config.tokenizer_max_length = 24;
  config.num_vlm_layers = 4;
  config.training.learning_rate = 1e-3;
  config.training.decay_learning_rate = 2.5e-5;
  return config;
}

void set_width(Features& features, const std::string& name, FeatureType type, std::int64_t width) {
  const auto found =
      std::find_if(features.begin(), features.end(), [&name](const Feature& f) { return f.name == name; });
  if (found != features.end()) {
    found->shape = {width};
  } else {
    features.push_back({.name = name, .type = type, .shape = {width}});
  }
}

/// The configured cameras give way to those of the options, in front of the other features as LeRobot lists them.
void set_cameras(SmolVLAConfig& config, const Features& cameras) {
  for (const Feature& camera : cameras) {
    if (camera.type != FeatureType::visual) {
      throw UsageError(Problem{.where = "cameras." + camera.name,
                               .expected = "a visual feature",
                               .found = std::string(feature_type_name(camera.type))});
    }
  }
  Features features = cameras;
  for (const Feature& feature : config.input_features) {
    if (feature.type != FeatureType::visual) features.push_back(feature);
  }
  config.input_features = std::move(features);
}

void apply_options(SmolVLAConfig& config, const InitOptions& options) {
  if (!options.cameras.empty()) set_cameras(config, options.cameras);
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

std::vector<std::string> feature_names(const SmolVLAConfig& config) {
  std::vector<std::string> names;
  for (const Features& features : {config.input_features, config.output_features}) {
    for (const Feature& feature : features) names.push_back(feature.name);
  }
  return names;
}

ProcessorPipeline read_or_make_preprocessor(const SmolVLAConfig& config, const fs::path& folder,
                                            const Statistics& statistics, const TokenizerSearch& tokenizers) {
  if (!fs::exists(folder / "policy_preprocessor.json")) return make_preprocessor(config, statistics, tokenizers);
  return ProcessorPipeline::load(folder, "policy_preprocessor", tokenizers);
}

ProcessorPipeline read_or_make_postprocessor(const SmolVLAConfig& config, const fs::path& folder,
                                             const Statistics& statistics, const TokenizerSearch& tokenizers) {
  if (!fs::exists(folder / "policy_postprocessor.json")) return make_postprocessor(config, statistics);
  return ProcessorPipeline::load(folder, "policy_postprocessor", tokenizers);
}

void replace_output_features(SmolVLAConfig& config, const Features& features, ProcessorPipeline& preprocessor,
                             ProcessorPipeline& postprocessor) {
  if (features.empty()) return;
  config.output_features = features;
  config.validate();
  Features all = config.input_features;
  all.insert(all.end(), features.begin(), features.end());
  preprocessor.set_features(all);
  postprocessor.set_features(features);
}

}  // namespace

SmolVLAConfig named_config(const std::string& name) { return name == "smolvla" ? published_config() : tiny_config(); }

SmolVLAConfig read_config(const Json& config, const fs::path& file) {
  const fs::path vlm = file.parent_path() / "vlm_config.json";
  if (fs::exists(vlm)) return parse_smolvla_config(config, read_json(vlm), file.string());
  try {
    return parse_smolvla_config(config, Json(), file.string());
  } catch (const UsageError& error) {
    throw UsageError(
        fmt::format("{}. There is no {}: the backbone's sizes are taken to be those of the published SmolVLM2-500M.",
                    error.what(), vlm.string()));
  }
}

ModelLayout folder_layout(const SmolVLAConfig& config, const fs::path& folder, InitialDtypes dtypes) {
  ModelLayout layout = smolvla_layout(config, dtypes);
  if (!fs::exists(folder / "model.safetensors")) return layout;
  const SafetensorsFile file = models::open_weights(folder);
  const models::WeightsIndex index = models::match_weights(file, layout.parameters);
  for (ParameterInfo& parameter : layout.parameters) {
    parameter.dtype = file.entry(index.file_names.at(parameter.name)).dtype;
  }
  return layout;
}

std::shared_ptr<Policy> load(const fs::path& folder, const Json& json, const LoadOptions& options) {
  SmolVLAConfig config = read_config(json, folder / "config.json");
  ModelLayout layout = smolvla_layout(config);
  const SafetensorsFile file = models::open_weights(folder);
  const models::WeightsIndex index = models::match_weights(file, layout.parameters);

  const TokenizerSearch tokenizers{.checkpoint = folder, .override_folder = options.tokenizer_folder};
  const Statistics statistics = models::read_buffer_statistics(file, index, feature_names(config));
  ProcessorPipeline preprocessor = read_or_make_preprocessor(config, folder, statistics, tokenizers);
  ProcessorPipeline postprocessor = read_or_make_postprocessor(config, folder, statistics, tokenizers);
  replace_output_features(config, options.output_features, preprocessor, postprocessor);

  const std::vector<NamedTensor> weights = models::read_weights(
      file, index, layout.parameters, {.dtype = options.dtype, .allow_non_finite = options.allow_non_finite});
  return std::make_shared<SmolVLAPolicy>(config, std::move(layout), weights, std::move(preprocessor),
                                         std::move(postprocessor), folder);
}

std::shared_ptr<Policy> init(SmolVLAConfig config, const InitOptions& options) {
  apply_options(config, options);
  ModelLayout layout = smolvla_layout(config, options.dtypes);
  const TokenizerSearch tokenizers{.override_folder = options.tokenizer_folder};
  const std::vector<NamedTensor> weights = models::random_weights(layout.parameters, options.seed);
  return std::make_shared<SmolVLAPolicy>(config, std::move(layout), weights,
                                         make_preprocessor(config, options.statistics, tokenizers),
                                         make_postprocessor(config, options.statistics), fs::path());
}

}  // namespace thaw::smolvla
