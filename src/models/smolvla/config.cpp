#include "thaw/models/smolvla/config.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "thaw/core/error.h"
#include "thaw/policy/processor_steps.h"

namespace thaw {
namespace {

constexpr std::int64_t kExpertMultiple = 256;
constexpr const char* kEmptyCamera = "observation.images.empty_camera_";

// ---------------------------------------------------------------------------------------------------- checking

[[noreturn]] void refuse(const std::string& field, const std::string& expected, const std::string& found) {
  throw UsageError(Problem{.where = "smolvla configuration, " + field, .expected = expected, .found = found});
}

void require(bool condition, const std::string& field, const std::string& expected, const std::string& found) {
  if (!condition) refuse(field, expected, found);
}

void require_range(const std::string& field, std::int64_t value, std::int64_t least, std::int64_t most) {
  require(value >= least && value <= most, field, fmt::format("{}..{}", least, most), std::to_string(value));
}

void require_multiple(const std::string& field, std::int64_t value, const std::string& divisor_field,
                      std::int64_t divisor) {
  require(value % divisor == 0, field, fmt::format("a multiple of {} ({})", divisor_field, divisor),
          std::to_string(value));
}

void check_vision(const SmolVisionConfig& vision) {
  require_range("vision_config.hidden_size", vision.hidden_size, 1, 1 << 16);
  require_range("vision_config.intermediate_size", vision.intermediate_size, 1, 1 << 18);
  require_range("vision_config.num_hidden_layers", vision.layers, 1, 1 << 10);
  require_range("vision_config.num_attention_heads", vision.heads, 1, 1 << 10);
  require_range("vision_config.patch_size", vision.patch_size, 1, 1 << 10);
  require_range("vision_config.image_size", vision.image_size, vision.patch_size, 1 << 14);
  require_multiple("vision_config.hidden_size", vision.hidden_size, "num_attention_heads", vision.heads);
  require(vision.layer_norm_eps >= 0.0, "vision_config.layer_norm_eps", "a number that is not negative",
          std::to_string(vision.layer_norm_eps));
}

void check_text(const SmolTextConfig& text) {
  require_range("text_config.hidden_size", text.hidden_size, 1, 1 << 16);
  require_range("text_config.intermediate_size", text.intermediate_size, 1, 1 << 18);
  require_range("text_config.num_hidden_layers", text.layers, 1, 1 << 10);
  require_range("text_config.num_attention_heads", text.heads, 1, 1 << 10);
  require_range("text_config.num_key_value_heads", text.kv_heads, 1, 1 << 10);
  require_range("text_config.head_dim", text.head_dim, 2, 1 << 12);
  require_range("text_config.vocab_size", text.vocabulary, 1, 1 << 24);
  require_multiple("text_config.num_attention_heads", text.heads, "num_key_value_heads", text.kv_heads);
  require_multiple("text_config.head_dim", text.head_dim, "the two halves of a rotation", 2);
  require(text.rms_norm_eps >= 0.0, "text_config.rms_norm_eps", "a number that is not negative",
          std::to_string(text.rms_norm_eps));
}

void check_images(const SmolVLAConfig& config) {
  const std::int64_t patch = config.vlm.vision.patch_size;
  require_range("resize_imgs_with_padding[0]", config.image_width, patch, 1 << 14);
  require_range("resize_imgs_with_padding[1]", config.image_height, patch, 1 << 14);
  require_range("scale_factor", config.vlm.scale_factor, 1, 1 << 8);
  require(config.image_width / patch == config.image_height / patch, "resize_imgs_with_padding",
          "a square image: the pixel shuffle of the connector takes no other",
          fmt::format("{} x {}", config.image_width, config.image_height));
  require_multiple("resize_imgs_with_padding / patch_size", config.patch_rows(), "scale_factor",
                   config.vlm.scale_factor);
  require_range("empty_cameras", config.empty_cameras, 0, 64);
  for (const Feature& feature : config.input_features) {
    if (feature.type != FeatureType::visual) continue;
    const bool is_image = feature.shape.size() == 3 && feature.shape.front() == 3;
    require(is_image, "input_features." + feature.name, "a shape (3, height, width)",
            fmt::format("({})", fmt::join(feature.shape, ", ")));
  }
}

void check_vectors(const SmolVLAConfig& config) {
  require_range("max_state_dim", config.max_state_dim, 1, 1 << 14);
  require_range("max_action_dim", config.max_action_dim, 1, 1 << 14);
  require(find_feature(config.output_features, "action") != nullptr, "output_features", "a feature named 'action'",
          "none");
  require_range("output_features.action.shape", config.action_dim(), 1, config.max_action_dim);
  require_range("input_features.observation.state.shape", config.state_dim(), 0, config.max_state_dim);
  if (config.adapt_to_pi_aloha) {
    require(config.action_dim() >= 14 && config.state_dim() >= 14, "adapt_to_pi_aloha",
            "state and action of at least 14 values (two Aloha arms)",
            fmt::format("{} and {}", config.state_dim(), config.action_dim()));
  }
}

void check_layers(const SmolVLAConfig& config) {
  require(config.num_vlm_layers <= (1 << 10) && config.num_expert_layers <= (1 << 10), "num_vlm_layers", "at most 1024",
          std::to_string(std::max(config.num_vlm_layers, config.num_expert_layers)));
  require(config.expert_layers() <= config.language_layers() && config.language_layers() % config.expert_layers() == 0,
          "num_expert_layers", fmt::format("a divisor of the {} language layers", config.language_layers()),
          std::to_string(config.expert_layers()));
  require(config.expert_width_multiplier > 0.0 && config.expert_width_multiplier <= 16.0, "expert_width_multiplier",
          "a number in (0, 16]", std::to_string(config.expert_width_multiplier));
  require(config.expert_hidden() >= 4 && config.expert_hidden() % 2 == 0, "expert_width_multiplier",
          "one that gives an even expert width of at least 4", std::to_string(config.expert_hidden()));
  require(config.attention_mode == "cross_attn" || config.attention_mode == "self_attn", "attention_mode",
          "'cross_attn' or 'self_attn'", "'" + config.attention_mode + "'");
  for (std::int64_t expert = 0; expert < config.expert_layers(); ++expert) {
    const std::int64_t layer = expert * config.expert_stride();
    require(
        config.self_attention_at(layer) != config.cross_projection(expert), "self_attn_every_n_layers",
        "one for which expert layers attend as they project: LeRobot chooses the attention by the language layer and "
        "the projection by the expert layer, and cannot run where the two differ",
        fmt::format("{} with {} expert layers on {} language layers (expert layer {}, language layer {})",
                    config.self_attn_every_n_layers, config.expert_layers(), config.language_layers(), expert, layer));
  }
}

void check_sequence(const SmolVLAConfig& config) {
  require_range("chunk_size", config.chunk_size, 1, 1 << 14);
  require_range("n_action_steps", config.n_action_steps, 1, config.chunk_size);
  require_range("tokenizer_max_length", config.tokenizer_max_length, 1, 1 << 16);
  require_range("num_steps", config.num_steps, 1, 1 << 16);
  require(config.min_period > 0.0 && config.max_period >= config.min_period && std::isfinite(config.max_period),
          "min_period, max_period", "0 < min_period <= max_period",
          fmt::format("{} and {}", config.min_period, config.max_period));
  require(config.pad_language_to == "longest" || config.pad_language_to == "max_length", "pad_language_to",
          "'longest' or 'max_length'", "'" + config.pad_language_to + "'");
  for (const NormalizationEntry& entry : config.normalization) {
    static_cast<void>(parse_feature_type(entry.type));
    static_cast<void>(parse_normalization_mode(entry.mode));
  }
  if (config.add_image_special_tokens) {
    const std::int64_t last = config.vlm.text.vocabulary - 1;
    require_range("fake_image_token_id", config.vlm.fake_image_token, 0, last);
    require_range("global_image_token_id", config.vlm.global_image_token, 0, last);
  }
}

// ---------------------------------------------------------------------------------------------------- reading

template <class T>
void read(const Json& object, const char* key, T& value, const std::string& where) {
  value = json_field_or<T>(object, key, value, where);
}

Features read_features(const Json& config, const char* key, const std::string& where) {
  Features features;
  const Json entries = json_field_or<Json>(config, key, Json::object(), where);
  if (!entries.is_object()) throw FormatError(Problem{.where = where + ", " + key, .expected = "an object"});
  for (const auto& [name, entry] : entries.items()) {
    const std::string entry_where = where + ", " + key + "." + name;
    Feature feature{.name = name,
                    .type = parse_feature_type(json_field<std::string>(entry, "type", entry_where)),
                    .shape = json_field<std::vector<std::int64_t>>(entry, "shape", entry_where)};
    for (const std::int64_t size : feature.shape) {
      if (size < 0 || size > (1 << 24)) {
        throw FormatError(Problem{.where = entry_where, .expected = "sizes in 0..2^24", .found = std::to_string(size)});
      }
    }
    features.push_back(std::move(feature));
  }
  return features;
}

/// LeRobot's validate_features: the empty cameras become features, behind what is there.
void add_empty_cameras(SmolVLAConfig& config) {
  for (std::int64_t i = 0; i < std::min<std::int64_t>(config.empty_cameras, 64); ++i) {
    const std::string name = kEmptyCamera + std::to_string(i);
    if (find_feature(config.input_features, name) != nullptr) continue;
    config.input_features.push_back({.name = name, .type = FeatureType::visual, .shape = {3, 480, 640}});
  }
}

void read_normalization(const Json& config, std::vector<NormalizationEntry>& entries, const std::string& where) {
  const Json map = json_field_or<Json>(config, "normalization_mapping", Json(), where);
  if (map.is_null()) return;
  if (!map.is_object()) throw FormatError(Problem{.where = where + ", normalization_mapping", .expected = "an object"});
  entries.clear();
  for (const auto& [type, mode] : map.items()) {
    entries.push_back({.type = type, .mode = json_field<std::string>(map, type, where + ", normalization_mapping")});
  }
}

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

void read_training(const Json& json, TrainingPreset& preset, const std::string& where) {
  read(json, "optimizer_lr", preset.learning_rate, where);
  read(json, "optimizer_eps", preset.eps, where);
  read(json, "optimizer_weight_decay", preset.weight_decay, where);
  read(json, "optimizer_grad_clip_norm", preset.grad_clip_norm, where);
  read(json, "scheduler_warmup_steps", preset.warmup_steps, where);
  read(json, "scheduler_decay_steps", preset.decay_steps, where);
  read(json, "scheduler_decay_lr", preset.decay_learning_rate, where);
  const auto betas = json_field_or<std::vector<double>>(json, "optimizer_betas", {preset.beta1, preset.beta2}, where);
  if (betas.size() != 2) throw FormatError(Problem{.where = where + ", optimizer_betas", .expected = "two numbers"});
  preset.beta1 = betas[0];
  preset.beta2 = betas[1];
}

SmolVlmConfig read_vlm(const Json& json, const std::string& where) {
  SmolVlmConfig vlm;
  const Json vision = json_field<Json>(json, "vision_config", where);
  const Json text = json_field<Json>(json, "text_config", where);
  const std::string vision_where = where + ", vision_config";
  const std::string text_where = where + ", text_config";
  read(vision, "hidden_size", vlm.vision.hidden_size, vision_where);
  read(vision, "intermediate_size", vlm.vision.intermediate_size, vision_where);
  read(vision, "num_hidden_layers", vlm.vision.layers, vision_where);
  read(vision, "num_attention_heads", vlm.vision.heads, vision_where);
  read(vision, "image_size", vlm.vision.image_size, vision_where);
  read(vision, "patch_size", vlm.vision.patch_size, vision_where);
  read(vision, "layer_norm_eps", vlm.vision.layer_norm_eps, vision_where);
  read(text, "hidden_size", vlm.text.hidden_size, text_where);
  read(text, "intermediate_size", vlm.text.intermediate_size, text_where);
  read(text, "num_hidden_layers", vlm.text.layers, text_where);
  read(text, "num_attention_heads", vlm.text.heads, text_where);
  vlm.text.kv_heads = vlm.text.heads;
  read(text, "num_key_value_heads", vlm.text.kv_heads, text_where);
  vlm.text.head_dim = vlm.text.heads > 0 ? vlm.text.hidden_size / vlm.text.heads : 0;
  read(text, "head_dim", vlm.text.head_dim, text_where);
  read(text, "vocab_size", vlm.text.vocabulary, text_where);
  read(text, "pad_token_id", vlm.text.pad_id, text_where);
  read(text, "rms_norm_eps", vlm.text.rms_norm_eps, text_where);
  read(json, "scale_factor", vlm.scale_factor, where);
  read(json, "fake_image_token_id", vlm.fake_image_token, where);
  read(json, "global_image_token_id", vlm.global_image_token, where);
  read(json, "image_token_id", vlm.image_token, where);
  return vlm;
}

// ---------------------------------------------------------------------------------------------------- writing

Json features_json(const Features& features) {
  Json json = Json::object();
  for (const Feature& feature : features) {
    json[feature.name] = {{"type", std::string(feature_type_name(feature.type))}, {"shape", feature.shape}};
  }
  return json;
}

bool same_features(const Features& a, const Features& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Feature& x, const Feature& y) {
    return x.name == y.name && x.type == y.type && x.shape == y.shape;
  });
}

Json all_fields(const SmolVLAConfig& c) {
  Json normalization = Json::object();
  for (const NormalizationEntry& entry : c.normalization) normalization[entry.type] = entry.mode;
  const Json image_size = c.resize_images ? Json({c.image_width, c.image_height}) : Json();
  const TrainingPreset& t = c.training;
  return Json{
      {"type", "smolvla"},
      {"n_obs_steps", 1},
      {"input_features", features_json(c.input_features)},
      {"output_features", features_json(c.output_features)},
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
      {"normalization_mapping", normalization},
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
  check_vision(vlm.vision);
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

std::vector<std::string> SmolVLAConfig::cameras() const {
  std::vector<std::string> names;
  for (const Feature& feature : input_features) {
    if (feature.type == FeatureType::visual) names.push_back(feature.name);
  }
  return names;
}

std::int64_t SmolVLAConfig::patch_rows() const { return image_height / vlm.vision.patch_size; }

std::int64_t SmolVLAConfig::patches() const { return patch_rows() * patch_rows(); }

std::int64_t SmolVLAConfig::image_tokens() const { return patches() / (vlm.scale_factor * vlm.scale_factor); }

std::int64_t SmolVLAConfig::state_dim() const {
  const Feature* state = find_feature(input_features, "observation.state");
  return state == nullptr || state->shape.empty() ? 0 : state->shape.back();
}

std::int64_t SmolVLAConfig::action_dim() const {
  const Feature* action = find_feature(output_features, "action");
  return action == nullptr || action->shape.empty() ? 0 : action->shape.back();
}

SmolVLAConfig parse_smolvla_config(const Json& json, const Json& vlm, const std::string& where) {
  if (!json.is_object()) throw FormatError(Problem{.where = where, .expected = "a JSON object"});
  SmolVLAConfig config;
  config.config_json = json;
  config.vlm_config_json = vlm;
  if (!vlm.is_null()) config.vlm = read_vlm(vlm, "vlm_config.json beside " + where);
  config.input_features = read_features(json, "input_features", where);
  config.output_features = read_features(json, "output_features", where);
  read_normalization(json, config.normalization, where);
  read_image_size(json, config, where);
  read_training(json, config.training, where);
  read(json, "chunk_size", config.chunk_size, where);
  read(json, "n_action_steps", config.n_action_steps, where);
  read(json, "max_state_dim", config.max_state_dim, where);
  read(json, "max_action_dim", config.max_action_dim, where);
  read(json, "empty_cameras", config.empty_cameras, where);
  read(json, "adapt_to_pi_aloha", config.adapt_to_pi_aloha, where);
  read(json, "tokenizer_max_length", config.tokenizer_max_length, where);
  read(json, "num_steps", config.num_steps, where);
  read(json, "freeze_vision_encoder", config.freeze_vision_encoder, where);
  read(json, "train_expert_only", config.train_expert_only, where);
  read(json, "train_state_proj", config.train_state_proj, where);
  read(json, "vlm_model_name", config.vlm_model_name, where);
  read(json, "load_vlm_weights", config.load_vlm_weights, where);
  read(json, "add_image_special_tokens", config.add_image_special_tokens, where);
  read(json, "attention_mode", config.attention_mode, where);
  read(json, "prefix_length", config.prefix_length, where);
  read(json, "pad_language_to", config.pad_language_to, where);
  read(json, "num_expert_layers", config.num_expert_layers, where);
  read(json, "num_vlm_layers", config.num_vlm_layers, where);
  read(json, "self_attn_every_n_layers", config.self_attn_every_n_layers, where);
  read(json, "expert_width_multiplier", config.expert_width_multiplier, where);
  read(json, "min_period", config.min_period, where);
  read(json, "max_period", config.max_period, where);
  if (json_field_or<bool>(json, "use_delta_joint_actions_aloha", false, where)) {
    refuse("use_delta_joint_actions_aloha", "false: LeRobot has not ported it", "true");
  }
  add_empty_cameras(config);
  config.validate();
  return config;
}

Json smolvla_config_json(const SmolVLAConfig& config) {
  if (config.config_json.is_null()) return all_fields(config);
  Json json = config.config_json;
  const std::string where = "config.json as read";
  SmolVLAConfig old;
  old.input_features = read_features(json, "input_features", where);
  old.output_features = read_features(json, "output_features", where);
  if (!same_features(old.input_features, config.input_features)) {
    json["input_features"] = features_json(config.input_features);
  }
  if (!same_features(old.output_features, config.output_features)) {
    json["output_features"] = features_json(config.output_features);
  }
  const auto update = [&json, &where](const char* key, std::int64_t fallback, std::int64_t value) {
    if (json_field_or<std::int64_t>(json, key, fallback, where) != value) json[key] = value;
  };
  update("chunk_size", old.chunk_size, config.chunk_size);
  update("n_action_steps", old.n_action_steps, config.n_action_steps);
  return json;
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
