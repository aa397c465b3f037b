#include <fmt/format.h>

#include "../factory_parts_impl.h"
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

models::Processors make_processors(const SmolVLAConfig& config, const Statistics& statistics,
                                   const TokenizerSearch& tokenizers) {
  return {.preprocessor = make_preprocessor(config, statistics, tokenizers),
          .postprocessor = make_postprocessor(config, statistics)};
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
  if (!models::WeightsFile::exists_in(folder)) return layout;
  const models::WeightsFile file(folder);
  models::take_dtypes(file, models::match_weights(file, layout.parameters), layout.parameters);
  return layout;
}

std::shared_ptr<Policy> load(const fs::path& folder, const Json& json, const LoadOptions& options) {
  SmolVLAConfig config = read_config(json, folder / "config.json");
  ModelLayout layout = smolvla_layout(config);
  const models::WeightsFile file(folder);
  const models::WeightsIndex index = models::match_weights(file, layout.parameters);

  const TokenizerSearch tokenizers{.checkpoint = folder, .override_folder = options.tokenizer_folder};
  const Statistics statistics =
      models::read_buffer_statistics(file, index, models::names_of(models::all_features(config)));
  models::Processors processors =
      models::read_processors(folder, tokenizers, make_processors(config, statistics, tokenizers));
  models::replace_output_features(config, options.output_features, processors);

  const std::vector<NamedTensor> weights = models::read_weights(
      file, index, layout.parameters, {.dtype = options.dtype, .allow_non_finite = options.allow_non_finite});
  return SmolVLAPolicy::make(config, std::move(layout), weights, std::move(processors.preprocessor),
                             std::move(processors.postprocessor), folder);
}

std::shared_ptr<Policy> init(SmolVLAConfig config, const InitOptions& options) {
  models::apply_options(config, options);
  ModelLayout layout = smolvla_layout(config, options.dtypes);
  const TokenizerSearch tokenizers{.override_folder = options.tokenizer_folder};
  const std::vector<NamedTensor> weights = models::random_weights(layout.parameters, options.seed);
  models::Processors processors = make_processors(config, options.statistics, tokenizers);
  return SmolVLAPolicy::make(config, std::move(layout), weights, std::move(processors.preprocessor),
                             std::move(processors.postprocessor), fs::path());
}

}  // namespace thaw::smolvla
