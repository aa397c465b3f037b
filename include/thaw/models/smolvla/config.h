/// SmolVLA's configuration: LeRobot's config.json, and the sizes of its vision-language model.
/// Reference: lerobot/policies/smolvla/configuration_smolvla.py, transformers SmolVLMConfig.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/models/normalization_entry.h"
#include "thaw/models/siglip_config.h"
#include "thaw/policy/features.h"
#include "thaw/policy/policy.h"

namespace thaw {

/// Sizes of the Llama text model (text_config).
struct SmolTextConfig {
  std::int64_t hidden_size = 960;
  std::int64_t intermediate_size = 2560;
  std::int64_t layers = 32;  ///< published; SmolVLA keeps the first num_vlm_layers
  std::int64_t heads = 15;
  std::int64_t kv_heads = 5;
  std::int64_t head_dim = 64;
  std::int64_t vocabulary = 49280;
  std::int64_t pad_id = 2;
  double rms_norm_eps = 1e-5;
};

/// What config.json does not say (vlm_config.json). Defaults: SmolVLM2-500M-Video-Instruct.
struct SmolVlmConfig {
  SiglipConfig vision;
  SmolTextConfig text;
  std::int64_t scale_factor = 4;  ///< pixel shuffle
  std::int64_t fake_image_token = 49189;
  std::int64_t global_image_token = 49152;
  std::int64_t image_token = 49190;
};

struct SmolVLAConfig {
  Features input_features;  ///< in the order of config.json, `empty_camera_*` included
  Features output_features;
  std::int64_t chunk_size = 50;
  std::int64_t n_action_steps = 50;
  std::vector<NormalizationEntry> normalization{{"VISUAL", "IDENTITY"}, {"STATE", "MEAN_STD"}, {"ACTION", "MEAN_STD"}};
  std::int64_t max_state_dim = 32;
  std::int64_t max_action_dim = 32;
  std::int64_t image_width = 512;  ///< resize_imgs_with_padding holds (width, height)
  std::int64_t image_height = 512;
  bool resize_images = true;  ///< false where resize_imgs_with_padding is null: images must have the right size already
  std::int64_t empty_cameras = 0;
  bool adapt_to_pi_aloha = false;
  std::int64_t tokenizer_max_length = 48;
  std::int64_t num_steps = 10;  ///< of the Euler sampler
  bool freeze_vision_encoder = true;
  bool train_expert_only = true;
  bool train_state_proj = true;
  TrainingPreset training;
  std::string vlm_model_name = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct";
  bool load_vlm_weights = false;
  bool add_image_special_tokens = false;
  std::string attention_mode = "cross_attn";
  std::int64_t prefix_length = -1;
  std::string pad_language_to = "longest";
  std::int64_t num_expert_layers = -1;  ///< <= 0: as many as the language model has
  std::int64_t num_vlm_layers = 16;     ///< <= 0: all that the text configuration names
  std::int64_t self_attn_every_n_layers = 2;
  double expert_width_multiplier = 0.75;
  double min_period = 4e-3;
  double max_period = 4.0;
  SmolVlmConfig vlm;

  Json config_json;      ///< as read, fields thaw does not know included; what save writes back
  Json vlm_config_json;  ///< as read; null where the checkpoint has none

  /// @throws UsageError naming the field, its value and what would do
  void validate() const;

  [[nodiscard]] std::int64_t language_layers() const;
  [[nodiscard]] std::int64_t expert_layers() const;
  [[nodiscard]] std::int64_t expert_hidden() const;        ///< He = int(text hidden · expert_width_multiplier)
  [[nodiscard]] std::int64_t expert_intermediate() const;  ///< round_up(int(4 · int(2 · He / 3)), 256)
  /// Language layers per expert layer: expert layer e runs at language layer e · stride.
  [[nodiscard]] std::int64_t expert_stride() const;
  /// Language layer of the last expert layer; nothing after it is needed.
  [[nodiscard]] std::int64_t last_language_layer() const;
  /// Whether the expert attends over itself at this language layer (else only over the prefix).
  [[nodiscard]] bool self_attention_at(std::int64_t language_layer) const;
  /// Whether keys and values of this expert layer are projected from the language model's keys and values.
  [[nodiscard]] bool cross_projection(std::int64_t expert_layer) const;

  [[nodiscard]] std::vector<std::string> cameras() const;  ///< names of the visual features, in order
  [[nodiscard]] std::int64_t patch_rows() const;           ///< of the image grid after resizing
  [[nodiscard]] std::int64_t patches() const;              ///< per image
  [[nodiscard]] std::int64_t image_tokens() const;         ///< per image, after the connector
  [[nodiscard]] std::int64_t state_dim() const;            ///< real width; 0 without a state feature
  [[nodiscard]] std::int64_t action_dim() const;           ///< real width
};

/// Reads and checks config.json's fields; unknown ones are kept. `where` names the file. `vlm` may be null: published
/// sizes.
/// @throws FormatError for a field of the wrong type; UsageError from validate()
[[nodiscard]] SmolVLAConfig parse_smolvla_config(const Json& config, const Json& vlm, const std::string& where);

/// config.json in LeRobot 0.6.1's field order: what was read with the features of `config` in place, or all fields
/// anew.
[[nodiscard]] Json smolvla_config_json(const SmolVLAConfig& config);
/// vlm_config.json: what was read, or the sizes when they are not the published ones; null when they are.
[[nodiscard]] Json smolvla_vlm_config_json(const SmolVLAConfig& config);

}  // namespace thaw
