#include "thaw/models/pi0/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "../config_fields_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

using models::FieldCheck;
using models::read_field;

// ---------------------------------------------------------------------------------------------------- checking

FieldCheck check_of(const Pi0Config& config) { return FieldCheck(config.is_pi05() ? "pi05" : "pi0"); }

void check_gemma(const FieldCheck& check, const GemmaConfig& gemma, const std::string& section) {
  check.range(section + ".width", gemma.width, 2, 1 << 16);
  check.range(section + ".depth", gemma.depth, 1, 1 << 10);
  check.range(section + ".mlp_dim", gemma.mlp_dim, 1, 1 << 20);
  check.range(section + ".num_heads", gemma.heads, 1, 1 << 10);
  check.range(section + ".num_kv_heads", gemma.kv_heads, 1, 1 << 10);
  check.range(section + ".head_dim", gemma.head_dim, 2, 1 << 12);
  check.multiple(section + ".num_heads", gemma.heads, "num_kv_heads", gemma.kv_heads);
  check.multiple(section + ".head_dim", gemma.head_dim, "the two halves of a rotation", 2);
}

void check_pair(const FieldCheck& check, const PaliGemmaSizes& sizes) {
  const auto same = [&check](const char* field, std::int64_t language, std::int64_t expert) {
    check.require(language == expert, std::string("expert.") + field,
                  fmt::format("that of paligemma ({}): the two attend to each other block by block", language),
                  std::to_string(expert));
  };
  same("depth", sizes.language.depth, sizes.expert.depth);
  same("num_heads", sizes.language.heads, sizes.expert.heads);
  same("num_kv_heads", sizes.language.kv_heads, sizes.expert.kv_heads);
  same("head_dim", sizes.language.head_dim, sizes.expert.head_dim);
  check.require(sizes.expert.width % 2 == 0 && sizes.expert.width >= 4, "expert.width",
                "an even number of at least 4 (sines and cosines of the time)", std::to_string(sizes.expert.width));
}

void check_sizes(const FieldCheck& check, const PaliGemmaSizes& sizes) {
  check.siglip(sizes.vision, "vision");
  check_gemma(check, sizes.language, "paligemma");
  check_gemma(check, sizes.expert, "expert");
  check_pair(check, sizes);
  check.range("vocab_size", sizes.vocabulary, 1, 1 << 24);
}

void check_inputs(const FieldCheck& check, const Pi0Config& config) {
  check.range("empty_cameras", config.empty_cameras, 0, 64);
  check.cameras(config.input_features);
  check.range("max_state_dim", config.max_state_dim, 1, 1 << 14);
  check.range("max_action_dim", config.max_action_dim, 1, 1 << 14);
  check.range("output_features.action.shape", config.action_dim(), 1, config.max_action_dim);
  // pi0.5 reads the state as text, of any width.
  const std::int64_t widest = config.is_pi05() ? 1 << 14 : config.max_state_dim;
  check.range("input_features.observation.state.shape", config.state_dim(), 0, widest);
  if (!config.adapt_to_pi_aloha) return;
  check.require(!config.is_pi05(), "adapt_to_pi_aloha", "false: the state of pi0.5 is in the prompt", "true");
  check.require(config.action_dim() >= 14 && config.state_dim() >= 14, "adapt_to_pi_aloha",
                "state and action of at least 14 values (two Aloha arms)",
                fmt::format("{} and {}", config.state_dim(), config.action_dim()));
}

void check_flow(const FieldCheck& check, const Pi0Config& config) {
  check.range("chunk_size", config.chunk_size, 1, 1 << 14);
  check.range("n_action_steps", config.n_action_steps, 1, config.chunk_size);
  check.range("tokenizer_max_length", config.tokenizer_max_length, 1, 1 << 16);
  check.range("num_inference_steps", config.num_inference_steps, 1, 1 << 16);
  check.require(config.time_alpha > 0.0 && config.time_alpha < 1e6, "time_sampling_beta_alpha", "a positive number",
                std::to_string(config.time_alpha));
  check.require(config.time_offset > 0.0 && config.time_scale >= 0.0 && config.time_offset + config.time_scale <= 1.0,
                "time_sampling_scale, time_sampling_offset", "times in (0, 1]",
                fmt::format("{} and {}", config.time_scale, config.time_offset));
  check.periods(config.min_period, config.max_period);
  check.normalization(config.normalization);
  check.require(config.dtype == "float32" || config.dtype == "bfloat16", "dtype", "'float32' or 'bfloat16'",
                "'" + config.dtype + "'");
}

// ---------------------------------------------------------------------------------------------------- reading

PiVersion version_of(const Json& json, const std::string& where) {
  const auto type = json_field<std::string>(json, "type", where);
  if (type == "pi0") return PiVersion::pi0;
  if (type == "pi05") return PiVersion::pi05;
  throw UsageError(Problem{.where = where + ", type", .expected = "'pi0' or 'pi05'", .found = "'" + type + "'"});
}

void read_gemma(const Json& json, const char* key, GemmaConfig& gemma, const std::string& where) {
  const Json section = json_field_or<Json>(json, key, Json::object(), where);
  const std::string inside = where + ", " + key;
  if (!section.is_object()) throw FormatError(Problem{.where = inside, .expected = "an object"});
  read_field(section, "width", gemma.width, inside);
  read_field(section, "depth", gemma.depth, inside);
  read_field(section, "mlp_dim", gemma.mlp_dim, inside);
  read_field(section, "num_heads", gemma.heads, inside);
  read_field(section, "num_kv_heads", gemma.kv_heads, inside);
  read_field(section, "head_dim", gemma.head_dim, inside);
}

PaliGemmaSizes read_sizes(const Json& json, PaliGemmaSizes sizes, const std::string& where) {
  if (!json.is_object()) throw FormatError(Problem{.where = where, .expected = "a JSON object"});
  const Json vision = json_field_or<Json>(json, "vision", Json::object(), where);
  const std::string inside = where + ", vision";
  if (!vision.is_object()) throw FormatError(Problem{.where = inside, .expected = "an object"});
  read_field(vision, "hidden_size", sizes.vision.hidden_size, inside);
  read_field(vision, "intermediate_size", sizes.vision.intermediate_size, inside);
  read_field(vision, "num_hidden_layers", sizes.vision.layers, inside);
  read_field(vision, "num_attention_heads", sizes.vision.heads, inside);
  read_field(vision, "patch_size", sizes.vision.patch_size, inside);
  read_gemma(json, "paligemma", sizes.language, where);
  read_gemma(json, "expert", sizes.expert, where);
  read_field(json, "vocab_size", sizes.vocabulary, where);
  return sizes;
}

PaliGemmaSizes sizes_of_variants(const Pi0Config& config) {
  PaliGemmaSizes sizes;
  sizes.language = gemma_variant(config.paligemma_variant);
  sizes.expert = gemma_variant(config.action_expert_variant);
  sizes.vision.image_size = config.image_resolution;
  return sizes;
}

void read_resolution(const Json& json, Pi0Config& config, const std::string& where) {
  const char* key = "image_resolution";
  const auto size =
      json_field_or<std::vector<std::int64_t>>(json, key, {config.image_resolution, config.image_resolution}, where);
  if (size.size() != 2) throw FormatError(Problem{.where = where + ", " + key, .expected = "[height, width]"});
  check_of(config).require(size[0] == size[1], key, "a square image", fmt::format("{} x {}", size[0], size[1]));
  config.image_resolution = size[0];
}

void read_flow_time(const Json& json, Pi0Config& config, const std::string& where) {
  read_field(json, "time_sampling_beta_alpha", config.time_alpha, where);
  read_field(json, "time_sampling_scale", config.time_scale, where);
  read_field(json, "time_sampling_offset", config.time_offset, where);
  const auto beta = json_field_or<double>(json, "time_sampling_beta_beta", 1.0, where);
  check_of(config).require(beta == 1.0, "time_sampling_beta_beta", "1 (times are drawn from Beta(alpha, 1))",
                           std::to_string(beta));
}

void read_relative_actions(const Json& json, Pi0Config& config, const std::string& where) {
  read_field(json, "use_relative_actions", config.use_relative_actions, where);
  read_field(json, "relative_exclude_joints", config.relative_exclude_joints, where);
  const auto names = json.find("action_feature_names");
  if (names == json.end() || names->is_null()) return;
  config.action_feature_names = json_field<std::vector<std::string>>(json, "action_feature_names", where);
}

/// What LeRobot can be asked for and thaw cannot do.
void refuse_what_is_missing(const Json& json, const Pi0Config& config, const std::string& where) {
  for (const char* memory : {"use_visual_memory", "use_proprioceptive_memory"}) {
    const bool asked = json_field_or<bool>(json, memory, false, where);
    check_of(config).require(!asked, memory, "false: thaw has no memory of earlier frames", "true");
  }
  const auto delay = json_field_or<std::int64_t>(json, "rtc_training_max_delay", 0, where);
  check_of(config).require(delay == 0, "rtc_training_max_delay", "0: thaw trains without delays",
                           std::to_string(delay));
}

/// LeRobot's validate_features: a missing state or action has the greatest width.
void add_missing_features(Pi0Config& config) {
  const std::int64_t side = config.image_resolution;
  models::add_empty_cameras(config.input_features, config.empty_cameras, {3, side, side});
  if (find_feature(config.input_features, "observation.state") == nullptr) {
    config.input_features.push_back(
        {.name = "observation.state", .type = FeatureType::state, .shape = {config.max_state_dim}});
  }
  if (find_feature(config.output_features, "action") == nullptr) {
    config.output_features.push_back({.name = "action", .type = FeatureType::action, .shape = {config.max_action_dim}});
  }
}

// ---------------------------------------------------------------------------------------------------- writing

Json head_fields(const Pi0Config& c) {
  return Json{{"type", c.type()},
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
              {"paligemma_variant", c.paligemma_variant},
              {"action_expert_variant", c.action_expert_variant},
              {"dtype", c.dtype},
              {"chunk_size", c.chunk_size},
              {"n_action_steps", c.n_action_steps},
              {"max_state_dim", c.max_state_dim},
              {"max_action_dim", c.max_action_dim},
              {"num_inference_steps", c.num_inference_steps},
              {"time_sampling_beta_alpha", c.time_alpha},
              {"time_sampling_beta_beta", 1.0},
              {"time_sampling_scale", c.time_scale},
              {"time_sampling_offset", c.time_offset},
              {"min_period", c.min_period},
              {"max_period", c.max_period},
              {"use_relative_actions", c.use_relative_actions},
              {"relative_exclude_joints", c.relative_exclude_joints},
              {"action_feature_names", c.action_feature_names ? Json(*c.action_feature_names) : Json()},
              {"rtc_config", nullptr},
              {"image_resolution", Json::array({c.image_resolution, c.image_resolution})},
              {"empty_cameras", c.empty_cameras}};
}

Json training_fields(const Pi0Config& c) {
  const TrainingPreset& t = c.training;
  return Json{{"normalization_mapping", models::normalization_json(c.normalization)},
              {"gradient_checkpointing", false},
              {"compile_model", false},
              {"compile_mode", "max-autotune"},
              {"freeze_vision_encoder", c.freeze_vision_encoder},
              {"train_expert_only", c.train_expert_only},
              {"optimizer_lr", t.learning_rate},
              {"optimizer_betas", Json::array({t.beta1, t.beta2})},
              {"optimizer_eps", t.eps},
              {"optimizer_weight_decay", t.weight_decay},
              {"optimizer_grad_clip_norm", t.grad_clip_norm},
              {"scheduler_warmup_steps", t.warmup_steps},
              {"scheduler_decay_steps", t.decay_steps},
              {"scheduler_decay_lr", t.decay_learning_rate}};
}

/// LeRobot lists the length of the text in another place for each version.
Json all_fields(const Pi0Config& config) {
  Json json = head_fields(config);
  if (config.is_pi05()) json["tokenizer_max_length"] = config.tokenizer_max_length;
  json.update(training_fields(config));
  if (!config.is_pi05()) json["tokenizer_max_length"] = config.tokenizer_max_length;
  return json;
}

Json gemma_fields(const GemmaConfig& gemma) {
  return Json{{"width", gemma.width},     {"depth", gemma.depth},           {"mlp_dim", gemma.mlp_dim},
              {"num_heads", gemma.heads}, {"num_kv_heads", gemma.kv_heads}, {"head_dim", gemma.head_dim}};
}

Json size_fields(const PaliGemmaSizes& sizes) {
  return Json{{"vocab_size", sizes.vocabulary},
              {"vision",
               {{"hidden_size", sizes.vision.hidden_size},
                {"intermediate_size", sizes.vision.intermediate_size},
                {"num_hidden_layers", sizes.vision.layers},
                {"num_attention_heads", sizes.vision.heads},
                {"patch_size", sizes.vision.patch_size}}},
              {"paligemma", gemma_fields(sizes.language)},
              {"expert", gemma_fields(sizes.expert)}};
}

}  // namespace

GemmaConfig gemma_variant(const std::string& name) {
  if (name == "gemma_2b") return {};
  if (name == "gemma_300m") return {.width = 1024, .mlp_dim = 4096};
  throw UsageError(
      Problem{.where = "Gemma variant", .expected = "'gemma_2b' or 'gemma_300m'", .found = "'" + name + "'"});
}

void Pi0Config::validate() const {
  const FieldCheck check = check_of(*this);
  check.range("vision.patch_size", sizes.vision.patch_size, 1, 1 << 10);
  check.range("image_resolution", image_resolution, sizes.vision.patch_size, 1 << 14);
  check.require(sizes.vision.image_size == image_resolution, "image_resolution", "the side of the position table",
                std::to_string(image_resolution));
  check_sizes(check, sizes);
  check_inputs(check, *this);
  check_flow(check, *this);
}

std::vector<std::string> Pi0Config::cameras() const { return models::camera_names(input_features); }

std::int64_t Pi0Config::patches() const { return sizes.vision.table_side() * sizes.vision.table_side(); }

std::int64_t Pi0Config::state_dim() const { return models::feature_width(input_features, "observation.state"); }

std::int64_t Pi0Config::action_dim() const { return models::feature_width(output_features, "action"); }

Pi0Config default_pi0_config(PiVersion version) {
  Pi0Config config{.version = version};
  const std::string mode = config.is_pi05() ? "QUANTILES" : "MEAN_STD";
  config.normalization = {{"VISUAL", "IDENTITY"}, {"STATE", mode}, {"ACTION", mode}};
  config.tokenizer_max_length = config.is_pi05() ? 200 : 48;
  return config;
}

Pi0Config parse_pi0_config(const Json& json, const Json& vlm, const std::string& where) {
  if (!json.is_object()) throw FormatError(Problem{.where = where, .expected = "a JSON object"});
  Pi0Config config = default_pi0_config(version_of(json, where));
  config.config_json = json;
  config.vlm_config_json = vlm;
  config.input_features = models::read_features(json, "input_features", where);
  config.output_features = models::read_features(json, "output_features", where);
  models::read_normalization(json, config.normalization, where);
  models::read_training(json, config.training, where);
  read_field(json, "chunk_size", config.chunk_size, where);
  read_field(json, "n_action_steps", config.n_action_steps, where);
  read_field(json, "max_state_dim", config.max_state_dim, where);
  read_field(json, "max_action_dim", config.max_action_dim, where);
  read_field(json, "empty_cameras", config.empty_cameras, where);
  read_field(json, "adapt_to_pi_aloha", config.adapt_to_pi_aloha, where);
  read_field(json, "tokenizer_max_length", config.tokenizer_max_length, where);
  read_field(json, "num_inference_steps", config.num_inference_steps, where);
  read_field(json, "min_period", config.min_period, where);
  read_field(json, "max_period", config.max_period, where);
  read_field(json, "freeze_vision_encoder", config.freeze_vision_encoder, where);
  read_field(json, "train_expert_only", config.train_expert_only, where);
  read_field(json, "paligemma_variant", config.paligemma_variant, where);
  read_field(json, "action_expert_variant", config.action_expert_variant, where);
  read_field(json, "dtype", config.dtype, where);
  read_resolution(json, config, where);
  read_flow_time(json, config, where);
  read_relative_actions(json, config, where);
  refuse_what_is_missing(json, config, where);
  config.sizes = sizes_of_variants(config);
  if (!vlm.is_null()) config.sizes = read_sizes(vlm, config.sizes, "vlm_config.json beside " + where);
  add_missing_features(config);
  config.validate();
  return config;
}

Json pi0_config_json(const Pi0Config& config) {
  if (config.config_json.is_null()) return all_fields(config);
  return models::with_changed_fields(config.config_json, {.inputs = config.input_features,
                                                          .outputs = config.output_features,
                                                          .chunk_size = config.chunk_size,
                                                          .n_action_steps = config.n_action_steps});
}

Json pi0_vlm_config_json(const Pi0Config& config) {
  const Json fields = size_fields(config.sizes);
  const PaliGemmaSizes usual = sizes_of_variants(config);
  if (!config.vlm_config_json.is_null()) {
    const PaliGemmaSizes read_back = read_sizes(config.vlm_config_json, usual, "vlm_config.json as read");
    return size_fields(read_back) == fields ? config.vlm_config_json : fields;
  }
  return fields == size_fields(usual) ? Json() : fields;
}

}  // namespace thaw
