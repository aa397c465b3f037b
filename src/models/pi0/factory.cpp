#include <fmt/format.h>

#include "../factory_parts_impl.h"
#include "../weights_impl.h"
#include "factory_impl.h"
#include "names_impl.h"
#include "parameters_impl.h"
#include "policy_impl.h"
#include "processors_impl.h"
#include "thaw/models/pi0/layout.h"

namespace thaw::pi0 {
namespace {

namespace fs = std::filesystem;

/// pi0_base and pi05_base as published.
Pi0Config published_config(PiVersion version) {
  Pi0Config config = default_pi0_config(version);
  for (const char* camera : {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"}) {
    config.input_features.push_back(
        {.name = std::string("observation.images.") + camera, .type = FeatureType::visual, .shape = {3, 224, 224}});
  }
  config.input_features.push_back({.name = "observation.state", .type = FeatureType::state, .shape = {32}});
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {32}}};
  return config;
}

/// The same structure in about a hundred thousand parameters: two query heads a key, a head width that is not width /
/// heads.
Pi0Config tiny_config(PiVersion version) {
  Pi0Config config = default_pi0_config(version);
  config.input_features = {{.name = "observation.images.camera1", .type = FeatureType::visual, .shape = {3, 42, 42}},
                           {.name = "observation.state", .type = FeatureType::state, .shape = {6}}};
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {6}}};
  config.image_resolution = 42;
  config.sizes.vision = {
      .hidden_size = 32, .intermediate_size = 64, .layers = 2, .heads = 4, .image_size = 42, .patch_size = 14};
  config.sizes.language = {.width = 40, .depth = 4, .mlp_dim = 64, .heads = 4, .kv_heads = 2, .head_dim = 16};
  config.sizes.expert = {.width = 24, .depth = 4, .mlp_dim = 48, .heads = 4, .kv_heads = 2, .head_dim = 16};
  config.sizes.vocabulary = 1024;
  config.chunk_size = config.n_action_steps = 8;
  config.max_state_dim = 12;
  config.max_action_dim = 10;
  config.tokenizer_max_length = config.is_pi05() ? 64 : 24;
  config.training.learning_rate = 1e-3;
  config.training.decay_learning_rate = 2.5e-5;
  return config;
}

/// A policy of these weights.
std::shared_ptr<Policy> assembled(const Pi0Config& config, ModelLayout layout, std::span<const NamedTensor> weights,
                                  models::Processors processors, fs::path source) {
  return Pi0Policy::make(config, std::move(layout), weights, std::move(processors.preprocessor),
                         std::move(processors.postprocessor), std::move(source));
}

}  // namespace

Pi0Config named_config(const std::string& name) {
  const PiVersion version = name.starts_with("pi05") ? PiVersion::pi05 : PiVersion::pi0;
  return name.ends_with("_tiny") ? tiny_config(version) : published_config(version);
}

Pi0Config read_config(const Json& json, const fs::path& file) {
  const fs::path folder = file.parent_path();
  const fs::path vlm = folder / "vlm_config.json";
  Pi0Config config = parse_pi0_config(json, fs::exists(vlm) ? read_json(vlm) : Json(), file.string());
  if (models::WeightsFile::exists_in(folder)) {
    config.tied_embedding = ties_embedding(models::WeightsFile(folder), config);
  }
  return config;
}

ModelLayout folder_layout(const Pi0Config& config, const fs::path& folder, InitialDtypes dtypes) {
  ModelLayout layout = pi0_layout(config, dtypes);
  if (!models::WeightsFile::exists_in(folder)) return layout;
  const models::WeightsFile file(folder);
  models::take_dtypes(file, models::match_weights(file, layout.parameters, rename_for(config)), layout.parameters);
  return layout;
}

std::shared_ptr<Policy> load(const fs::path& folder, const Json& json, const LoadOptions& options) {
  Pi0Config config = read_config(json, folder / "config.json");
  ModelLayout layout = pi0_layout(config);
  const models::WeightsFile file(folder);
  const models::WeightsIndex index = models::match_weights(file, layout.parameters, rename_for(config));

  const TokenizerSearch tokenizers{.checkpoint = folder, .override_folder = options.tokenizer_folder};
  const Statistics statistics =
      models::read_buffer_statistics(file, index, models::names_of(models::all_features(config)));
  models::Processors processors =
      models::read_processors(folder, tokenizers, make_processors(config, statistics, tokenizers));
  models::replace_output_features(config, options.output_features, processors);

  const std::vector<NamedTensor> weights = models::read_weights(
      file, index, layout.parameters, {.dtype = options.dtype, .allow_non_finite = options.allow_non_finite});
  return assembled(config, std::move(layout), weights, std::move(processors), folder);
}

std::shared_ptr<Policy> init(Pi0Config config, const InitOptions& options) {
  models::apply_options(config, options);
  if (config.config_json.is_null() && options.dtypes == InitialDtypes::published) config.dtype = "bfloat16";
  ModelLayout layout = pi0_layout(config, options.dtypes);
  const TokenizerSearch tokenizers{.override_folder = options.tokenizer_folder};
  const std::vector<NamedTensor> weights = models::random_weights(layout.parameters, options.seed, is_offset_norm);
  return assembled(config, std::move(layout), weights, make_processors(config, options.statistics, tokenizers), {});
}

}  // namespace thaw::pi0
