#include "thaw/models/smolvla/config.h"

#include <algorithm>
#include <cmath>

#include "../config_fields_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr std::int64_t kExpertMultiple = 256;

// ---------------------------------------------------------------------------------------------------- checking

constexpr models::FieldCheck kCheck("smolvla");

void check_text(const SmolTextConfig& text) {
  kCheck.range("text_config.hidden_size", text.hidden_size, 1, 1 << 16);
  kCheck.range("text_config.intermediate_size", text.intermediate_size, 1, 1 << 18);
  kCheck.range("text_config.num_hidden_layers", text.layers, 1, 1 << 10);
  kCheck.range("text_config.num_attention_heads", text.heads, 1, 1 << 10);
  kCheck.range("text_config.num_key_value_heads", text.kv_heads, 1, 1 << 10);
  kCheck.range("text_config.head_dim", text.head_dim, 2, 1 << 12);
  kCheck.range("text_config.vocab_size", text.vocabulary, 1, 1 << 24);
  kCheck.multiple("text_config.num_attention_heads", text.heads, "num_key_value_heads", text.kv_heads);
  kCheck.multiple("text_config.head_dim", text.head_dim, "the two halves of a rotation", 2);
  kCheck.require(text.rms_norm_eps >= 0.0, "text_config.rms_norm_eps", "a number that is not negative",
                 std::to_string(text.rms_norm_eps));
}

void check_images(const SmolVLAConfig& config) {
  const std::int64_t patch = config.vlm.vision.patch_size;
  kCheck.range("resize_imgs_with_padding[0]", config.image_width, patch, 1 << 14);
  kCheck.range("resize_imgs_with_padding[1]", config.image_height, patch, 1 << 14);
  kCheck.range("scale_factor", config.vlm.scale_factor, 1, 1 << 8);
  kCheck.require(config.image_width / patch == config.image_height / patch, "resize_imgs_with_padding",
                 "a square image: the pixel shuffle of the connector takes no other",
                 fmt::format("{} x {}", config.image_width, config.image_height));
  kCheck.multiple("resize_imgs_with_padding / patch_size", config.patch_rows(), "scale_factor",
                  config.vlm.scale_factor);
  kCheck.range("empty_cameras", config.empty_cameras, 0, 64);
  kCheck.cameras(config.input_features);
}

void check_vectors(const SmolVLAConfig& config) {
  kCheck.range("max_state_dim", config.max_state_dim, 1, 1 << 14);
  kCheck.range("max_action_dim", config.max_action_dim, 1, 1 << 14);
  kCheck.require(find_feature(config.output_features, "action") != nullptr, "output_features",
                 "a feature named 'action'", "none");
  kCheck.range("output_features.action.shape", config.action_dim(), 1, config.max_action_dim);
  kCheck.range("input_features.observation.state.shape", config.state_dim(), 0, config.max_state_dim);
  if (config.adapt_to_pi_aloha) {
    kCheck.require(config.action_dim() >= 14 && config.state_dim() >= 14, "adapt_to_pi_aloha",
                   "state and action of at least 14 values (two Aloha arms)",
                   fmt::format("{} and {}", config.state_dim(), config.action_dim()));
  }
}

void check_layers(const SmolVLAConfig& config) {
  kCheck.require(config.num_vlm_layers <= (1 << 10) && config.num_expert_layers <= (1 << 10), "num_vlm_layers",
                 "at most 1024", std::to_string(std::max(config.num_vlm_layers, config.num_expert_layers)));
  kCheck.require(
      config.expert_layers() <= config.language_layers() && config.language_layers() % config.expert_layers() == 0,
      "num_expert_layers", fmt::format("a divisor of the {} language layers", config.language_layers()),
      std::to_string(config.expert_layers()));
  kCheck.require(config.expert_width_multiplier > 0.0 && config.expert_width_multiplier <= 16.0,
                 "expert_width_multiplier", "a number in (0, 16]", std::to_string(config.expert_width_multiplier));
  kCheck.require(config.expert_hidden() >= 4 && config.expert_hidden() % 2 == 0, "expert_width_multiplier",
                 "one that gives an even expert width of at least 4", std::to_string(config.expert_hidden()));
  kCheck.require(config.attention_mode == "cross_attn" || config.attention_mode == "self_attn", "attention_mode",
                 "'cross_attn' or 'self_attn'", "'" + config.attention_mode + "'");
  for (std::int64_t expert = 0; expert < config.expert_layers(); ++expert) {
    const std::int64_t layer = expert * config.expert_stride();
    kCheck.require(
        config.self_attention_at(layer) != config.cross_projection(expert), "self_attn_every_n_layers",
        "one for which expert layers attend as they project: LeRobot chooses the attention by the language layer and "
        "the projection by the expert layer, and cannot run where the two differ",
        fmt::format("{} with {} expert layers on {} language layers (expert layer {}, language layer {})",
                    config.self_attn_every_n_layers, config.expert_layers(), config.language_layers(), expert, layer));
  }
}

void check_sequence(const SmolVLAConfig& config) {
  kCheck.range("chunk_size", config.chunk_size, 1, 1 << 14);
  kCheck.range("n_action_steps", config.n_action_steps, 1, config.chunk_size);
  kCheck.range("tokenizer_max_length", config.tokenizer_max_length, 1, 1 << 16);
  kCheck.range("num_steps", config.num_steps, 1, 1 << 16);
  kCheck.periods(config.min_period, config.max_period);
  kCheck.require(config.pad_language_to == "longest" || config.pad_language_to == "max_length", "pad_language_to",
                 "'longest' or 'max_length'", "'" + config.pad_language_to + "'");
  kCheck.normalization(config.normalization);
  if (config.add_image_special_tokens) {
    const std::int64_t last = config.vlm.text.vocabulary - 1;
    kCheck.range("fake_image_token_id", config.vlm.fake_image_token, 0, last);
    kCheck.range("global_image_token_id", config.vlm.global_image_token, 0, last);
  }
}

// ---------------------------------------------------------------------------------------------------- reading

void read_image_size(const Json& json, SmolVLAConfig& config, const std::string& where) {
  const char* key = "resize_imgs_with_padding";
  const auto found = json.find(key);
  if (found == json.end()) return;
  config.resize_images = !found->is_null();
  if (!config.resize_images) {
    config.image_width = config.image_height = config.vlm.vision.image_size;
    return;
  }
  const auto size = json_field<std::vector<std::int64_t>>(json, key, where);
  if (size.size() != 2) {
    throw FormatError(Problem{.where = where + ", " + key, .expected = "[width, height]", .found = found->dump()});
  }
  config.image_width = size[0];
  config.image_height = size[1];
}

SmolVlmConfig read_vlm(const Json& json, const std::string& where) {
  SmolVlmConfig vlm;
  const Json vision = json_field<Json>(json, "vision_config", where);
  const Json text = json_field<Json>(json, "text_config", where);
  const std::string vision_where = where + ", vision_config";
  const std::string text_where = where + ", text_config";
  models::read_field(vision, "hidden_size", vlm.vision.hidden_size, vision_where);
  models::read_field(vision, "intermediate_size", vlm.vision.intermediate_size, vision_where);
  models::read_field(vision, "num_hidden_layers", vlm.vision.layers, vision_where);
  models::read_field(vision, "num_attention_heads", vlm.vision.heads, vision_where);
  models::read_field(vision, "image_size", vlm.vision.image_size, vision_where);
  models::read_field(vision, "patch_size", vlm.vision.patch_size, vision_where);
  models::read_field(vision, "layer_norm_eps", vlm.vision.layer_norm_eps, vision_where);
  models::read_field(text, "hidden_size", vlm.text.hidden_size, text_where);
  models::read_field(text, "intermediate_size", vlm.text.intermediate_size, text_where);
  models::read_field(text, "num_hidden_layers", vlm.text.layers, text_where);
  models::read_field(text, "num_attention_heads", vlm.text.heads, text_where);
  vlm.text.kv_heads = vlm.text.heads;
  models::read_field(text, "num_key_value_heads", vlm.text.kv_heads, text_where);
  vlm.text.head_dim = vlm.text.heads > 0 ? vlm.text.hidden_size / vlm.text.heads : 0;
  models::read_field(text, "head_dim", vlm.text.head_dim, text_where);
  models::read_field(text, "vocab_size", vlm.text.vocabulary, text_where);
  models::read_field(text, "pad_token_id", vlm.text.pad_id, text_where);
  models::read_field(text, "rms_norm_eps", vlm.text.rms_norm_eps, text_where);
  models::read_field(json, "scale_factor", vlm.scale_factor, where);
  models::read_field(json, "fake_image_token_id", vlm.fake_image_token, where);
  models::read_field(json, "global_image_token_id", vlm.global_image_token, where);
  models::read_field(json, "image_token_id", vlm.image_token, where);
  return vlm;
}

// ---------------------------------------------------------------------------------------------------- writing

Json all_fields(const SmolVLAConfig& c) {
  const Json image_size = c.resize_images ? Json({c.image_width, c.image_height}) : Json();
  const TrainingPreset& t = c.training;
  return Json{
      {"type", "smolvla"},
      {"n_obs_steps", 1},
      {"input_features", models::features_json(c.input_features)},
      {"output_features", models::features_json(c.output_features)},
      {"device", "cpu"},
      {"use_amp", false},
      {"use_peft", false},
      {"push_to_hub", false},
      {"repo_id", nullptr},
      {"private", nullptr},
      {"tags", nullptr},
      {"license", nullptr},
      {"pretrained_path", nullptr},
      {"pretrained_revision", nullptr},
      {"chunk_size", c.chunk_size},
      {"n_action_steps", c.n_action_steps},
      {"normalization_mapping", models::normalization_json(c.normalization)},
      {"max_state_dim", c.max_state_dim},
      {"max_action_dim", c.max_action_dim},
      {"resize_imgs_with_padding", image_size},
      {"empty_cameras", c.empty_cameras},
      {"adapt_to_pi_aloha", c.adapt_to_pi_aloha},
      {"use_delta_joint_actions_aloha", false},
      {"tokenizer_max_length", c.tokenizer_max_length},
      {"num_steps", c.num_steps},
      {"use_cache", true},
      {"freeze_vision_encoder", c.freeze_vision_encoder},
      {"train_expert_only", c.train_expert_only},
      {"train_state_proj", c.train_state_proj},
      {"optimizer_lr", t.learning_rate},
      {"optimizer_betas", Json::array({t.beta1, t.beta2})},
      {"optimizer_eps", t.eps},
      {"optimizer_weight_decay", t.weight_decay},
      {"optimizer_grad_clip_norm", t.grad_clip_norm},
      {"scheduler_warmup_steps", t.warmup_steps},
      {"scheduler_decay_steps", t.decay_steps},
      {"scheduler_decay_lr", t.decay_learning_rate},
      {"vlm_model_name", c.vlm_model_name},
      {"load_vlm_weights", c.load_vlm_weights},
      {"add_image_special_tokens", c.add_image_special_tokens},
      {"attention_mode", c.attention_mode},
      {"prefix_length", c.prefix_length},
      {"pad_language_to", c.pad_language_to},
      {"num_expert_layers", c.num_expert_layers},
      {"num_vlm_layers", c.num_vlm_layers},
      {"self_attn_every_n_layers", c.self_attn_every_n_layers},
      {"expert_width_multiplier", c.expert_width_multiplier},
      {"min_period", c.min_period},
      {"max_period", c.max_period},
      {"rtc_config", nullptr},
      {"compile_model", false},
      {"compile_mode", "max-autotune"},
  };
}

Json vlm_fields(const SmolVlmConfig& vlm) {
  return Json{
      {"image_token_id", vlm.image_token},
      {"tie_word_embeddings", false},
      {"vision_config",
       {{"hidden_size", vlm.vision.hidden_size},
        {"intermediate_size", vlm.vision.intermediate_size},
        {"num_hidden_layers", vlm.vision.layers},
        {"num_attention_heads", vlm.vision.heads},
        {"num_channels", 3},
        {"image_size", vlm.vision.image_size},
        {"patch_size", vlm.vision.patch_size},
        {"hidden_act", "gelu_pytorch_tanh"},
        {"layer_norm_eps", vlm.vision.layer_norm_eps},
        {"model_type", "smolvlm_vision"}}},
      {"text_config",
       {{"vocab_size", vlm.text.vocabulary},
        {"hidden_size", vlm.text.hidden_size},
        {"intermediate_size", vlm.text.intermediate_size},
        {"num_hidden_layers", vlm.text.layers},
        {"num_attention_heads", vlm.text.heads},
        {"num_key_value_heads", vlm.text.kv_heads},
        {"hidden_act", "silu"},
        {"rms_norm_eps", vlm.text.rms_norm_eps},
        {"pad_token_id", vlm.text.pad_id},
        {"attention_bias", false},
        {"head_dim", vlm.text.head_dim},
        {"model_type", "llama"}}},
      {"scale_factor", vlm.scale_factor},
      {"pad_token_id", vlm.text.pad_id},
      {"model_type", "smolvlm"},
      {"fake_image_token_id", vlm.fake_image_token},
      {"global_image_token_id", vlm.global_image_token},
  };
}

}  // namespace

void SmolVLAConfig::validate() const {
  kCheck.siglip(vlm.vision, "vision_config");
  check_text(vlm.text);
  check_images(*this);
  check_vectors(*this);
  check_layers(*this);
  check_sequence(*this);
}

std::int64_t SmolVLAConfig::language_layers() const {
  return num_vlm_layers > 0 ? std::min(num_vlm_layers, vlm.text.layers) : vlm.text.layers;
}

std::int64_t SmolVLAConfig::expert_layers() const {
  return num_expert_layers > 0 ? num_expert_layers : language_layers();
}

std::int64_t SmolVLAConfig::expert_hidden() const {
  return static_cast<std::int64_t>(static_cast<double>(vlm.text.hidden_size) * expert_width_multiplier);
}

std::int64_t SmolVLAConfig::expert_intermediate() const {
  const auto narrowed = static_cast<std::int64_t>(2.0 * static_cast<double>(expert_hidden()) / 3.0);
  return (4 * narrowed + kExpertMultiple - 1) / kExpertMultiple * kExpertMultiple;
}

std::int64_t SmolVLAConfig::expert_stride() const { return language_layers() / expert_layers(); }

std::int64_t SmolVLAConfig::last_language_layer() const { return (expert_layers() - 1) * expert_stride(); }

bool SmolVLAConfig::self_attention_at(std::int64_t language_layer) const {
  if (attention_mode.find("cross") == std::string::npos) return true;
  return self_attn_every_n_layers > 0 && language_layer % self_attn_every_n_layers == 0;
}

bool SmolVLAConfig::cross_projection(std::int64_t expert_layer) const { return !self_attention_at(expert_layer); }

std::vector<std::string> SmolVLAConfig::cameras() const { return models::camera_names(input_features); }

std::int64_t SmolVLAConfig::patch_rows() const { return image_height / vlm.vision.patch_size; }

std::int64_t SmolVLAConfig::patches() const { return patch_rows() * patch_rows(); }

std::int64_t SmolVLAConfig::image_tokens() const { return patches() / (vlm.scale_factor * vlm.scale_factor); }

std::int64_t SmolVLAConfig::state_dim() const { return models::feature_width(input_features, "observation.state"); }

std::int64_t SmolVLAConfig::action_dim() const { return models::feature_width(output_features, "action"); }

SmolVLAConfig parse_smolvla_config(const Json& json, const Json& vlm, const std::string& where) {
  if (!json.is_object()) throw FormatError(Problem{.where = where, .expected = "a JSON object"});
  SmolVLAConfig config;
  config.config_json = json;
  config.vlm_config_json = vlm;
  if (!vlm.is_null()) config.vlm = read_vlm(vlm, "vlm_config.json beside " + where);
  config.input_features = models::read_features(json, "input_features", where);
  config.output_features = models::read_features(json, "output_features", where);
  models::read_normalization(json, config.normalization, where);
  read_image_size(json, config, where);
  models::read_training(json, config.training, where);
  models::read_field(json, "chunk_size", config.chunk_size, where);
  models::read_field(json, "n_action_steps", config.n_action_steps, where);
  models::read_field(json, "max_state_dim", config.max_state_dim, where);
  models::read_field(json, "max_action_dim", config.max_action_dim, where);
  models::read_field(json, "empty_cameras", config.empty_cameras, where);
  models::read_field(json, "adapt_to_pi_aloha", config.adapt_to_pi_aloha, where);
  models::read_field(json, "tokenizer_max_length", config.tokenizer_max_length, where);
  models::read_field(json, "num_steps", config.num_steps, where);
  models::read_field(json, "freeze_vision_encoder", config.freeze_vision_encoder, where);
  models::read_field(json, "train_expert_only", config.train_expert_only, where);
  models::read_field(json, "train_state_proj", config.train_state_proj, where);
  models::read_field(json, "vlm_model_name", config.vlm_model_name, where);
  models::read_field(json, "load_vlm_weights", config.load_vlm_weights, where);
  models::read_field(json, "add_image_special_tokens", config.add_image_special_tokens, where);
  models::read_field(json, "attention_mode", config.attention_mode, where);
  models::read_field(json, "prefix_length", config.prefix_length, where);
  models::read_field(json, "pad_language_to", config.pad_language_to, where);
  models::read_field(json, "num_expert_layers", config.num_expert_layers, where);
  models::read_field(json, "num_vlm_layers", config.num_vlm_layers, where);
  models::read_field(json, "self_attn_every_n_layers", config.self_attn_every_n_layers, where);
  models::read_field(json, "expert_width_multiplier", config.expert_width_multiplier, where);
  models::read_field(json, "min_period", config.min_period, where);
  models::read_field(json, "max_period", config.max_period, where);
  if (json_field_or<bool>(json, "use_delta_joint_actions_aloha", false, where)) {
    kCheck.refuse("use_delta_joint_actions_aloha", "false: LeRobot has not ported it", "true");
  }
  models::add_empty_cameras(config.input_features, config.empty_cameras, {3, 480, 640});
  config.validate();
  return config;
}

Json smolvla_config_json(const SmolVLAConfig& config) {
  if (config.config_json.is_null()) return all_fields(config);
  return models::with_changed_fields(config.config_json, {.inputs = config.input_features,
                                                          .outputs = config.output_features,
                                                          .chunk_size = config.chunk_size,
                                                          .n_action_steps = config.n_action_steps});
}

Json smolvla_vlm_config_json(const SmolVLAConfig& config) {
  const Json fields = vlm_fields(config.vlm);
  if (!config.vlm_config_json.is_null()) {
    const SmolVlmConfig read_back = read_vlm(config.vlm_config_json, "vlm_config.json as read");
    return vlm_fields(read_back) == fields ? config.vlm_config_json : fields;
  }
  return fields == vlm_fields(SmolVlmConfig{}) ? Json() : fields;
}

}  // namespace thaw
