#include <ATen/ATen.h>

#include <cmath>

#include "../line_parts_impl.h"
#include "network_impl.h"
#include "parameters_impl.h"
#include "thaw/models/smolvla/sequence.h"
#include "thaw/tensor/dtype.h"

namespace thaw::smolvla {
namespace {

using models::numbered;

constexpr double kRotaryBase = 10000.0;  // SmolVLA ignores the rope_theta of the language model

/// `value` as an element of `dtype` holds it.
double rounded(double value, at::ScalarType dtype) { return at::scalar_tensor(value, dtype).item<double>(); }

/// (n, P, C) row-major square grid -> (n, P / s², s² · C): each s x s patch of tokens becomes one, row by row.
at::Tensor merge_patches(const at::Tensor& x, std::int64_t s) {
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(x.size(1)))));
  const std::int64_t width = x.size(2);
  return x.view({x.size(0), side / s, s, side / s, s, width})
      .permute({0, 1, 3, 2, 4, 5})
      .reshape({x.size(0), side / s * (side / s), s * s * width});
}

}  // namespace

Network::Network(SmolVLAConfig config, const nn::ParameterMap& parameters)
    : config_(std::move(config)),
      vision_(config_.vlm.vision, parameters, kVision),
      connector_(nn::find_linear(parameters, kConnector)),
      token_embedding_(nn::find_parameter(parameters, kText + ".embed_tokens.weight")),
      expert_norm_{.weight = nn::find_parameter(parameters, kExpert + ".norm.weight"),
                   .eps = config_.vlm.text.rms_norm_eps},
      state_projection_(nn::find_linear(parameters, kStateProjection)),
      action_in_(nn::find_linear(parameters, kActionIn)),
      action_out_(nn::find_linear(parameters, kActionOut)),
      time_in_(nn::find_linear(parameters, kTimeIn)),
      time_out_(nn::find_linear(parameters, kTimeOut)) {
  const SmolTextConfig& text = config_.vlm.text;
  for (std::int64_t i = 0; i < config_.language_layers(); ++i) {
    language_.push_back(nn::find_decoder_block(parameters, numbered(kTextLayers, i), text.head_dim, text.rms_norm_eps));
  }
  for (std::int64_t e = 0; e < config_.expert_layers(); ++e) {
    expert_.push_back(nn::find_decoder_block(parameters, numbered(kExpertLayers, e), text.head_dim, text.rms_norm_eps));
  }
}

at::Tensor Network::embed_patches(const at::Tensor& pixels) const {
  return vision_.embed_patches(
      pixels, vision_position_ids(config_.patch_rows(), config_.vlm.vision.table_side(), vision_.dtype()));
}

at::Tensor Network::vision_block(std::int64_t block, const at::Tensor& hidden) const {
  return vision_.block(block, hidden);
}

at::Tensor Network::vision_norm(const at::Tensor& hidden) const { return vision_.norm(hidden); }

at::Tensor Network::connect(const at::Tensor& hidden) const {
  const at::Tensor tokens = nn::linear(merge_patches(hidden.flatten(0, 1), config_.vlm.scale_factor), connector_);
  return tokens.view({hidden.size(0), hidden.size(1), tokens.size(1), tokens.size(2)});
}

at::Tensor Network::with_special_tokens(const at::Tensor& image_tokens) const {
  const auto embed = [&](std::vector<std::int64_t> ids) {
    const at::Tensor tokens = at::tensor(ids, image_tokens.options().dtype(at::kLong));
    const at::Tensor rows = at::embedding(token_embedding_, tokens, config_.vlm.text.pad_id);
    return rows.expand({image_tokens.size(0), image_tokens.size(1), rows.size(0), rows.size(1)});
  };
  return at::cat({embed({config_.vlm.fake_image_token, config_.vlm.global_image_token}), image_tokens,
                  embed({config_.vlm.fake_image_token})},
                 2);
}

at::Tensor Network::embed_prefix(const at::Tensor& image_tokens, const at::Tensor& tokens) const {
  const double scale = std::sqrt(static_cast<double>(config_.vlm.text.hidden_size));
  // The reference keeps the image scale in the dtype of the features (31 in bfloat16), the language scale in double.
  at::Tensor images = image_tokens * rounded(scale, image_tokens.scalar_type());
  if (config_.add_image_special_tokens) images = with_special_tokens(images);
  const at::Tensor language = at::embedding(token_embedding_, tokens, config_.vlm.text.pad_id) * scale;
  return at::cat({images.flatten(1, 2), language}, 1);
}

at::Tensor Network::rotary(const at::Tensor& positions) const {
  return nn::rotary_table(positions, config_.vlm.text.head_dim, kRotaryBase);
}

LanguageOutput Network::language_block(std::int64_t block, const at::Tensor& rows, const at::Tensor& rotary,
                                       const std::optional<nn::KeyValue>& before, const at::Tensor& mask) const {
  const nn::DecoderBlock& layer = language_.at(block);
  // In the joint run the float32 state row makes the whole prefix float32 when it enters the first block.
  const at::Tensor x = block == 0 ? rows.to(at_least_float(rows.scalar_type())) : rows;
  const at::Tensor normed = nn::rms_norm(x, layer.input_norm);
  LanguageOutput output{.own = nn::block_key_value(layer, normed, rotary)};
  if (block == config_.last_language_layer()) return output;
  const at::Tensor query = nn::block_query(layer, normed, rotary);
  std::vector<nn::KeyValue> seen;
  if (before) seen.push_back(*before);
  seen.push_back(output.own);
  output.hidden = nn::block_finish(layer, x, nn::attention(query, seen, mask));
  return output;
}

at::Tensor Network::embed_state(const at::Tensor& state) const {
  return nn::linear(state, state_projection_).unsqueeze(1);
}

nn::KeyValue Network::cross_key_value(std::int64_t expert_layer, const nn::KeyValue& prefix) const {
  const nn::DecoderBlock& layer = expert_.at(expert_layer);
  const auto project = [&layer](const at::Tensor& heads, const nn::Linear& projection) {
    return nn::split_heads(nn::linear(nn::merge_heads(heads), projection), layer.head_dim).contiguous();
  };
  return {.key = project(prefix.key, layer.key), .value = project(prefix.value, layer.value)};
}

at::Tensor Network::embed_suffix(const at::Tensor& noisy_actions, const at::Tensor& time) const {
  const at::Tensor actions = nn::linear(noisy_actions, action_in_);
  const std::int64_t width = config_.expert_hidden();
  const at::Tensor embedded =
      time_embedding(time.flatten(), width, config_.min_period, config_.max_period).to(actions.scalar_type());
  const std::int64_t batch = actions.size(0);
  const at::Tensor per_step = embedded.view({batch, -1, 1, width}).expand({batch, -1, config_.chunk_size, width});
  const at::Tensor joined = at::cat({actions, per_step.reshape(actions.sizes())}, 2);
  return nn::linear(at::silu(nn::linear(joined, time_in_)), time_out_);
}

at::Tensor Network::self_block(std::int64_t expert_layer, const at::Tensor& hidden, const at::Tensor& rotary,
                               const nn::KeyValue& rows, const nn::KeyValue& state, const at::Tensor& mask) const {
  const nn::DecoderBlock& layer = expert_.at(expert_layer);
  const at::Tensor normed = nn::rms_norm(hidden, layer.input_norm);
  const at::Tensor query = nn::block_query(layer, normed, rotary);
  const nn::KeyValue own = nn::block_key_value(layer, normed, rotary);
  return nn::block_finish(layer, hidden, nn::attention(query, {rows, state, own}, mask));
}

at::Tensor Network::cross_block(std::int64_t expert_layer, const at::Tensor& hidden, const at::Tensor& rotary,
                                const nn::KeyValue& prefix, const at::Tensor& mask) const {
  const nn::DecoderBlock& layer = expert_.at(expert_layer);
  const at::Tensor query = nn::block_query(layer, nn::rms_norm(hidden, layer.input_norm), rotary);
  return nn::block_finish(layer, hidden, nn::attention(query, {prefix}, mask));
}

at::Tensor Network::expert_norm(const at::Tensor& hidden) const {
  const at::Tensor normed = nn::rms_norm(hidden, expert_norm_);
  return normed.to(at_least_float(normed.scalar_type()));
}

at::Tensor Network::project_actions(const at::Tensor& normed) const {
  const at::Tensor velocity = nn::linear(normed, action_out_);
  return velocity.to(at_least_float(velocity.scalar_type()));
}

}  // namespace thaw::smolvla
