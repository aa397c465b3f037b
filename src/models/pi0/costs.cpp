#include "costs_impl.h"
#include "line_impl.h"
#include "parameters_impl.h"

namespace thaw::pi0 {

using models::DecoderSizes;
using models::floats;
using models::floats_per_draw;
using models::product_flops;
using models::operator+;
using models::operator*;
using models::real;

Costs::Costs(const Pi0Config& config)
    : config_(config),
      images_(real(static_cast<std::int64_t>(config.cameras().size()))),
      rows_(images_ * real(config.patches()) + real(config.tokenizer_max_length)),
      chunk_(real(config.chunk_size)),
      language_(real(config.sizes.language.width)),
      expert_(real(config.sizes.expert.width)) {}

DecoderSizes Costs::widths(const GemmaConfig& gemma) const {
  return {.hidden = real(gemma.width),
          .inner = real(gemma.mlp_dim),
          .heads = real(gemma.heads),
          .query_width = real(gemma.heads * gemma.head_dim),
          .kv_width = real(gemma.kv_heads * gemma.head_dim)};
}

DrawBytes Costs::modulation() const {
  // 1 + scale; and the gate, a view that keeps its two neighbours.
  return config_.is_pi05() ? floats_per_draw(4 * expert_) : DrawBytes{};
}

Cost Costs::projector() const {
  const double tokens = images_ * real(config_.patches());
  return {.flops = product_flops(tokens, real(config_.sizes.vision.hidden_size), language_)};
}

Cost Costs::prefix_embedding() const { return {.bytes = {.workspace = floats(rows_ * language_)}}; }

Cost Costs::language_block(const std::string& block, bool last) const {
  DecoderSizes sizes = widths(config_.sizes.language);
  Cost cost{.flops = models::keys_and_values_flops(sizes, rows_)};
  if (last) {
    cost.bytes = models::keys_and_values_bytes(rows_, language_, block);
    return cost;
  }
  sizes.rows = floats(rows_);
  sizes.pairs = floats(rows_ * rows_);
  sizes.mask = {.fixed = rows_};
  sizes.writes_keys = true;
  cost.flops += models::decoder_flops(sizes, rows_, rows_);
  cost.bytes = models::decoder_bytes(sizes, block);
  return cost;
}

Cost Costs::state() const { return {.flops = product_flops(1, real(config_.max_state_dim), expert_)}; }

Cost Costs::state_block(const std::string& block, bool last) const {
  DecoderSizes sizes = widths(config_.sizes.expert);
  Cost cost{.flops = models::keys_and_values_flops(sizes, 1)};
  if (last) {
    cost.bytes = models::keys_and_values_bytes(1, expert_, block);
    return cost;
  }
  const double seen = rows_ + 1;
  sizes.rows = floats(1);
  sizes.pairs = floats(seen);
  sizes.seen = floats(seen);
  sizes.mask = {.fixed = seen};
  sizes.writes_keys = true;
  cost.flops += models::decoder_flops(sizes, 1, seen);
  cost.bytes = models::decoder_bytes(sizes, block);
  return cost;
}

Cost Costs::suffix_embedding() const {
  const std::vector<std::string> in{time_in(config_) + ".weight"};
  const std::vector<std::string> out{time_out(config_) + ".weight"};
  const double action_flops = product_flops(chunk_, real(config_.max_action_dim), expert_);
  if (config_.is_pi05()) {
    // One row a draw: both SiLUs keep their input, the first product the embedded time.
    const DrawBytes row = floats_per_draw(expert_);
    return {
        .flops = action_flops + product_flops(1, 2 * expert_, expert_),
        .bytes = {
            .saved = 2.0 * row, .saved_for = {{row, in}, {row, out}}, .workspace = floats_per_draw(chunk_ * expert_)}};
  }
  const DrawBytes hidden = floats_per_draw(chunk_ * expert_);
  return {.flops = action_flops + product_flops(chunk_, 3 * expert_, expert_),
          .bytes = {.saved = hidden, .saved_for = {{2.0 * hidden, in}, {hidden, out}}, .workspace = 6.0 * hidden}};
}

Cost Costs::expert_block(const std::string& block) const {
  const double before = rows_ + real(config_.state_rows());
  DecoderSizes sizes = widths(config_.sizes.expert);
  sizes.rows = floats_per_draw(chunk_);
  sizes.pairs = {.per_draw = models::kFloatBytes * chunk_ * before, .per_pair = models::kFloatBytes * chunk_ * chunk_};
  sizes.seen = {.fixed = models::kFloatBytes * before, .per_draw = models::kFloatBytes * chunk_};
  sizes.mask = {.per_draw = chunk_ * before, .per_pair = chunk_ * chunk_};
  sizes.gated_residuals = config_.is_pi05();
  Cost cost{
      .flops = models::keys_and_values_flops(sizes, chunk_) + models::decoder_flops(sizes, chunk_, before + chunk_),
      .pair_flops = 2 * product_flops(chunk_, chunk_, sizes.query_width),
      .bytes = models::decoder_bytes(sizes, block)};
  if (config_.is_pi05()) cost.flops += 2 * product_flops(1, expert_, 3 * expert_);
  cost.bytes.saved = cost.bytes.saved + 2.0 * modulation();
  return cost;
}

Cost Costs::output() const {
  const DrawBytes scale = floats_per_draw(chunk_);
  const DrawBytes hidden = expert_ * scale;
  const double norm = config_.is_pi05() ? product_flops(1, expert_, 3 * expert_) : 0.0;
  return {
      .flops = norm + product_flops(chunk_, expert_, real(config_.max_action_dim)),
      .bytes = {
          .saved = scale + modulation(), .saved_for = {{hidden, {kActionOut + ".weight"}}}, .workspace = 2.0 * hidden}};
}

namespace {

void add_inputs(models::KeyTable& table, const Pi0Config& config, std::int64_t cameras) {
  table.add(keys::kPixels, cameras * 3 * config.image_resolution, config.image_resolution);
  table.add(keys::kCameraMask, 1, cameras, at::kBool);
  table.add(keys::kTokens, 1, config.tokenizer_max_length, at::kLong);
  table.add(keys::kTokenMask, 1, config.tokenizer_max_length, at::kBool);
  if (!config.is_pi05()) table.add(keys::kState, 1, config.max_state_dim);
}

void add_prefix(models::KeyTable& table, const Pi0Config& config, std::int64_t cameras, std::int64_t rows) {
  const GemmaConfig& language = config.sizes.language;
  table.add(keys::kVisionHidden, cameras * config.patches(), config.sizes.vision.hidden_size);
  table.add(keys::kImageTokens, cameras * config.patches(), language.width);
  table.add(keys::kRows, rows, language.width);
  table.add(keys::kRowMask, 1, rows, at::kBool);
  table.add(keys::kRowRotary, rows, language.head_dim);
  for (std::int64_t i = 0; i < config.blocks(); ++i) {
    table.add_key_value(keys::kPrefix, i, language.kv_heads * rows, language.head_dim);
  }
}

void add_state(models::KeyTable& table, const Pi0Config& config, std::int64_t rows) {
  const GemmaConfig& expert = config.sizes.expert;
  table.add(keys::kStateRow, 1, expert.width);
  table.add(keys::kStateRotary, 1, expert.head_dim);
  table.add(keys::kStateMask, 1, rows + 1, at::kBool);
  for (std::int64_t i = 0; i < config.blocks(); ++i) {
    table.add_key_value(keys::kStateStream, i, expert.kv_heads, expert.head_dim);
  }
}

void add_suffix(models::KeyTable& table, const Pi0Config& config, std::int64_t rows) {
  const GemmaConfig& expert = config.sizes.expert;
  const std::int64_t chunk = config.chunk_size;
  const std::int64_t seen = rows + config.state_rows() + chunk;
  table.add(keys::kSuffixMask, chunk, seen, at::kBool);
  table.add(keys::kSuffixRotary, chunk, expert.head_dim);
  table.add_for_each_draw(keys::kDrawMask, chunk, seen, at::kBool);
  table.add_for_each_draw(keys::kDrawRotary, chunk, expert.head_dim);
  table.add_for_each_draw(keys::kNoisyActions, chunk, config.max_action_dim);
  table.add_for_each_draw(keys::kTime, 1, 1);
  if (config.is_pi05()) table.add_for_each_draw(keys::kCondition, 1, expert.width);
  table.add_for_each_draw(keys::kSuffixHidden, chunk, expert.width);
  table.add_for_each_draw(keys::kVelocity, chunk, config.max_action_dim);
}

}  // namespace

std::vector<KeyInfo> key_table(const Pi0Config& config) {
  const auto cameras = static_cast<std::int64_t>(config.cameras().size());
  const std::int64_t rows = cameras * config.patches() + config.tokenizer_max_length;
  models::KeyTable table;
  add_inputs(table, config, cameras);
  add_prefix(table, config, cameras, rows);
  if (!config.is_pi05()) add_state(table, config, rows);
  add_suffix(table, config, rows);
  return table.take();
}

}  // namespace thaw::pi0
