/// The configuration of pi0 and pi0.5: LeRobot's config.json, and the sizes of PaliGemma and the action expert.
/// Reference: lerobot/policies/{pi0,pi05}/configuration_*.py, openpi models/gemma.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/models/normalization_entry.h"
#include "thaw/models/siglip_config.h"
#include "thaw/policy/features.h"
#include "thaw/policy/policy.h"

namespace thaw {

/// Sizes of one Gemma stack. Defaults: Gemma 2B ("gemma_2b").
struct GemmaConfig {
  std::int64_t width = 2048;
  std::int64_t depth = 18;
  std::int64_t mlp_dim = 16384;
  std::int64_t heads = 8;
  std::int64_t kv_heads = 1;
  std::int64_t head_dim = 256;
};

/// "gemma_2b" or "gemma_300m". @throws UsageError for another name
[[nodiscard]] GemmaConfig gemma_variant(const std::string& name);

/// What config.json does not say (vlm_config.json). The defaults are the published sizes.
struct PaliGemmaSizes {
  SiglipConfig vision{
      .hidden_size = 1152, .intermediate_size = 4304, .layers = 27, .heads = 16, .image_size = 224, .patch_size = 14};
  GemmaConfig language;
  GemmaConfig expert{.width = 1024, .mlp_dim = 4096};
  std::int64_t vocabulary = 257152;
};

enum class PiVersion {
  pi0,   ///< the state is a token before the actions; the time is mixed into the actions
  pi05,  ///< the state is text of the prompt; the time drives the expert's norms
};

struct Pi0Config {
  PiVersion version = PiVersion::pi0;
  Features input_features;  ///< in the order of config.json, `empty_camera_*` included
  Features output_features;
  std::int64_t chunk_size = 50;
  std::int64_t n_action_steps = 50;
  std::vector<NormalizationEntry> normalization;  ///< pi0: mean and deviation, pi05: quantiles
  std::int64_t max_state_dim = 32;
  std::int64_t max_action_dim = 32;
  std::int64_t image_resolution = 224;  ///< side; LeRobot takes no image that is not square
  std::int64_t empty_cameras = 0;
  bool adapt_to_pi_aloha = false;  ///< of older pi0 configurations; LeRobot 0.6 has no such field
  std::int64_t tokenizer_max_length = 48;
  std::int64_t num_inference_steps = 10;  ///< of the Euler sampler
  double time_alpha = 1.5;                ///< training times are offset + scale · Beta(alpha, 1)
  double time_scale = 0.999;
  double time_offset = 0.001;
  double min_period = 4e-3;
  double max_period = 4.0;
  bool use_relative_actions = false;
  std::vector<std::string> relative_exclude_joints{"gripper"};
  std::optional<std::vector<std::string>> action_feature_names;
  bool freeze_vision_encoder = false;
  bool train_expert_only = false;
  TrainingPreset training{.learning_rate = 2.5e-5, .weight_decay = 0.01, .grad_clip_norm = 1.0};
  std::string paligemma_variant = "gemma_2b";
  std::string action_expert_variant = "gemma_300m";
  /// "float32" or "bfloat16": LeRobot then also rounds the frequencies of the rotary positions to bfloat16.
  std::string dtype = "float32";
  PaliGemmaSizes sizes;
  /// The token embedding and lm_head are one tensor, as in the published files. Files of LeRobot's fine-tuned models
  /// hold both; lm_head is then read by nobody.
  bool tied_embedding = true;

  Json config_json;      ///< as read, fields thaw does not know included; what save writes back
  Json vlm_config_json;  ///< as read; null where the checkpoint has none

  /// @throws UsageError naming the field, its value and what would do
  void validate() const;

  [[nodiscard]] bool is_pi05() const { return version == PiVersion::pi05; }
  [[nodiscard]] std::string type() const { return is_pi05() ? "pi05" : "pi0"; }
  [[nodiscard]] std::vector<std::string> cameras() const;  ///< names of the visual features, in order
  [[nodiscard]] std::int64_t patches() const;              ///< per image, and tokens per image
  [[nodiscard]] std::int64_t state_dim() const;            ///< real width; 0 without a state feature
  [[nodiscard]] std::int64_t action_dim() const;           ///< real width
  [[nodiscard]] std::int64_t blocks() const { return sizes.language.depth; }   ///< of the language model and the expert
  [[nodiscard]] std::int64_t state_rows() const { return is_pi05() ? 0 : 1; }  ///< in the suffix
};

/// The defaults of a version.
[[nodiscard]] Pi0Config default_pi0_config(PiVersion version);

/// Reads and checks config.json's fields; unknown ones are kept. `where` names the file. `vlm` may be null: sizes of
/// the variants that config.json names.
/// @throws FormatError for a field of the wrong type; UsageError from validate(), or for what thaw cannot do (memory of
///         pi0.5, delays in training, times of another distribution)
[[nodiscard]] Pi0Config parse_pi0_config(const Json& config, const Json& vlm, const std::string& where);

/// config.json in LeRobot 0.6.1's field order: what was read with the features of `config` in place, or all fields
/// anew.
[[nodiscard]] Json pi0_config_json(const Pi0Config& config);
/// vlm_config.json: what was read, or the sizes when they are not those of the variants; null when they are.
[[nodiscard]] Json pi0_vlm_config_json(const Pi0Config& config);

}  // namespace thaw
