#include "costs_impl.h"
#include "line_impl.h"

namespace thaw::smolvla {

using models::DecoderSizes;
using models::floats;
using models::floats_per_draw;
using models::kFloatBytes;
using models::product_flops;
using models::operator+;
using models::operator*;
using models::real;
using models::weights;

SampleSizes::SampleSizes(const SmolVLAConfig& config)
    : images(real(static_cast<std::int64_t>(config.cameras().size()))),
      patches(real(config.patches())),
      tokens(real(config.image_tokens())),
      rows(images * (tokens + (config.add_image_special_tokens ? 3.0 : 0.0)) + real(config.tokenizer_max_length)),
      chunk(real(config.chunk_size)),
      heads(real(config.vlm.text.heads)),
      query_width(real(config.vlm.text.heads * config.vlm.text.head_dim)),
      kv_width(real(config.vlm.text.kv_heads * config.vlm.text.head_dim)),
      hidden(real(config.vlm.text.hidden_size)),
      expert_hidden(real(config.expert_hidden())) {}

DecoderSizes language_widths(const SmolVLAConfig& config) {
  const SmolTextConfig& text = config.vlm.text;
  return {.hidden = real(text.hidden_size),
          .inner = real(text.intermediate_size),
          .heads = real(text.heads),
          .query_width = real(text.heads * text.head_dim),
          .kv_width = real(text.kv_heads * text.head_dim)};
}

DecoderSizes expert_widths(const SmolVLAConfig& config) {
  DecoderSizes widths = language_widths(config);
  widths.hidden = real(config.expert_hidden());
  widths.inner = real(config.expert_intermediate());
  return widths;
}

Flops::Flops(const SmolVLAConfig& config) : config_(config), size_(config) {}

double Flops::connector() const {
  const auto& vlm = config_.vlm;
  return product_flops(size_.images * size_.tokens, real(vlm.vision.hidden_size * vlm.scale_factor * vlm.scale_factor),
                       size_.hidden);
}

double Flops::state() const { return product_flops(1, real(config_.max_state_dim), size_.hidden); }

double Flops::language_block(double own, double seen, bool last) const {
  const DecoderSizes widths = language_widths(config_);
  const double key_value = models::keys_and_values_flops(widths, own);
  return last ? key_value : key_value + models::decoder_flops(widths, own, seen);
}

double Flops::rows_block(bool last) const { return language_block(size_.rows, size_.rows, last); }

double Flops::state_block(bool last) const { return language_block(1, size_.rows + 1, last); }

double Flops::cross_keys() const { return product_flops(size_.rows + 1, size_.kv_width, 2 * size_.kv_width); }

double Flops::expert_block(bool self) const {
  const DecoderSizes widths = expert_widths(config_);
  const double key_value = self ? models::keys_and_values_flops(widths, size_.chunk) : 0.0;
  const double seen = size_.rows + 1 + (self ? size_.chunk : 0.0);
  return key_value + models::decoder_flops(widths, size_.chunk, seen);
}

double Flops::draw_pair() const { return 2 * product_flops(size_.chunk, size_.chunk, size_.query_width); }

double Flops::suffix_embedding() const {
  return product_flops(size_.chunk, real(config_.max_action_dim), size_.expert_hidden) +
         product_flops(size_.chunk, 3 * size_.expert_hidden, size_.expert_hidden);
}

double Flops::action_projection() const {
  return product_flops(size_.chunk, size_.expert_hidden, real(config_.max_action_dim));
}

Bytes::Bytes(const SmolVLAConfig& config) : config_(config), size_(config) {}

StageBytes Bytes::connector(const std::string& connector) const {
  const DrawBytes merged = floats(size_.images * size_.patches * real(config_.vlm.vision.hidden_size));
  return {.saved_for = {{merged, {connector + ".weight"}}}, .workspace = merged};
}

StageBytes Bytes::prefix_embedding() const { return {.workspace = floats(size_.rows * size_.hidden)}; }

StageBytes Bytes::rows_block(const std::string& block, bool last) const {
  if (last) return models::keys_and_values_bytes(size_.rows, size_.hidden, block);
  DecoderSizes sizes = language_widths(config_);
  sizes.rows = floats(size_.rows);
  sizes.pairs = floats(size_.rows * size_.rows);
  sizes.mask = {.fixed = size_.rows};
  sizes.writes_keys = true;
  return models::decoder_bytes(sizes, block);
}

StageBytes Bytes::state_block(const std::string& block, bool last) const {
  if (last) return models::keys_and_values_bytes(1, size_.hidden, block);
  const double seen = size_.rows + 1;
  DecoderSizes sizes = language_widths(config_);
  sizes.rows = floats(1);
  sizes.pairs = floats(seen);
  sizes.seen = floats(seen);
  sizes.mask = {.fixed = seen};
  sizes.writes_keys = true;
  return models::decoder_bytes(sizes, block);
}

StageBytes Bytes::cross_keys(const std::string& block) const {
  const DrawBytes one = floats((size_.rows + 1) * size_.kv_width);
  return {.saved_for = {{one, weights(block, {"self_attn.k_proj"})}, {one, weights(block, {"self_attn.v_proj"})}},
          .workspace = 4.0 * one};
}

StageBytes Bytes::suffix_embedding(const std::string& time_in, const std::string& time_out) const {
  const DrawBytes hidden = floats_per_draw(size_.chunk * size_.expert_hidden);
  return {.saved = hidden,
          .saved_for = {{2.0 * hidden, {time_in + ".weight"}}, {hidden, {time_out + ".weight"}}},
          .workspace = 6.0 * hidden};
}

StageBytes Bytes::expert_block(const std::string& block, bool self) const {
  const double prefix = size_.rows + 1;
  DecoderSizes sizes = expert_widths(config_);
  sizes.rows = floats_per_draw(size_.chunk);
  sizes.pairs = floats_per_draw(size_.chunk * prefix);
  sizes.mask = {.fixed = prefix};
  sizes.own_keys = self;
  if (self) {
    sizes.pairs.per_pair = kFloatBytes * size_.chunk * size_.chunk;
    sizes.seen = {.fixed = kFloatBytes * prefix, .per_draw = kFloatBytes * size_.chunk};
    sizes.mask = {.per_draw = size_.chunk * prefix, .per_pair = size_.chunk * size_.chunk};
  }
  return models::decoder_bytes(sizes, block);
}

StageBytes Bytes::output(const std::string& projection) const {
  const DrawBytes scale = floats_per_draw(size_.chunk);
  const DrawBytes hidden = size_.expert_hidden * scale;
  return {.saved = scale, .saved_for = {{hidden, {projection + ".weight"}}}, .workspace = 2.0 * hidden};
}

std::vector<KeyInfo> key_table(const SmolVLAConfig& config) {
  const auto cameras = static_cast<std::int64_t>(config.cameras().size());
  const auto rows = static_cast<std::int64_t>(SampleSizes(config).rows);
  const SmolTextConfig& text = config.vlm.text;
  const std::int64_t chunk = config.chunk_size;
  models::KeyTable table;
  table.add(keys::kPixels, cameras * 3 * config.image_height, config.image_width);
  table.add(keys::kCameraMask, 1, cameras, at::kBool);
  table.add(keys::kTokens, 1, config.tokenizer_max_length, at::kLong);
  table.add(keys::kTokenMask, 1, config.tokenizer_max_length, at::kBool);
  table.add(keys::kState, 1, config.max_state_dim);
  table.add(keys::kVisionHidden, cameras * config.patches(), config.vlm.vision.hidden_size);
  table.add(keys::kImageTokens, cameras * config.image_tokens(), text.hidden_size);
  table.add(keys::kRows, rows, text.hidden_size);
  table.add(keys::kRowMask, 1, rows, at::kBool);
  table.add(keys::kRowRotary, rows, text.head_dim);
  table.add(keys::kStateRow, 1, text.hidden_size);
  table.add(keys::kStateRotary, 1, text.head_dim);
  table.add(keys::kPrefixMask, 1, rows + 1, at::kBool);
  table.add(keys::kSuffixMask, chunk, rows + 1 + chunk, at::kBool);
  table.add(keys::kSuffixRotary, chunk, text.head_dim);
  table.add(keys::kCrossRotary, chunk, text.head_dim);
  for (std::int64_t i = 0; i <= config.last_language_layer(); ++i) {
    table.add_key_value("A", i, text.kv_heads * rows, text.head_dim);
    table.add_key_value("B", i, text.kv_heads, text.head_dim);
  }
  for (std::int64_t e = 0; e < config.expert_layers(); ++e) {
    if (config.cross_projection(e)) table.add_key_value("cross", e, text.kv_heads * (rows + 1), text.head_dim);
  }
  table.add_for_each_draw(keys::kDrawMask, chunk, rows + 1 + chunk, at::kBool);
  table.add_for_each_draw(keys::kDrawRotary, chunk, text.head_dim);
  table.add_for_each_draw(keys::kDrawCrossRotary, chunk, text.head_dim);
  table.add_for_each_draw(keys::kNoisyActions, chunk, config.max_action_dim);
  table.add_for_each_draw(keys::kTime, 1, 1);
  table.add_for_each_draw(keys::kSuffixHidden, chunk, config.expert_hidden());
  table.add_for_each_draw(keys::kVelocity, chunk, config.max_action_dim);
  return table.take();
}

}  // namespace thaw::smolvla
