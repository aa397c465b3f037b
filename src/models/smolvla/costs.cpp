#include <algorithm>

#include "costs_impl.h"
#include "line_impl.h"

namespace thaw::smolvla {
namespace {

constexpr double kFloatBytes = sizeof(float);

double product(double rows, double in, double out) { return 2.0 * rows * in * out; }

double real(std::int64_t count) { return static_cast<double>(count); }

DrawBytes operator+(const DrawBytes& a, const DrawBytes& b) {
  return {.fixed = a.fixed + b.fixed, .per_draw = a.per_draw + b.per_draw, .per_pair = a.per_pair + b.per_pair};
}

DrawBytes operator*(double factor, const DrawBytes& bytes) {
  return {.fixed = factor * bytes.fixed, .per_draw = factor * bytes.per_draw, .per_pair = factor * bytes.per_pair};
}

using Names = std::vector<std::string>;

Names weights(const std::string& prefix, std::initializer_list<const char*> modules) {
  Names names;
  for (const char* module : modules) names.push_back(prefix + "." + module + ".weight");
  return names;
}

/// Elements that do not grow with the draws, as float32.
DrawBytes floats(double elements) { return {.fixed = kFloatBytes * elements}; }

}  // namespace

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

Flops::Flops(const SmolVLAConfig& config) : config_(config), size_(config) {}

double Flops::patches() const {
  const auto& vision = config_.vlm.vision;
  return product(size_.images * size_.patches, real(3 * vision.patch_size * vision.patch_size),
                 real(vision.hidden_size));
}

double Flops::vision_block() const {
  const double width = real(config_.vlm.vision.hidden_size);
  const double inner = real(config_.vlm.vision.intermediate_size);
  const double rows = size_.images * size_.patches;
  return product(rows, width, 4 * width + 2 * inner) + 2 * product(rows, size_.patches, width);
}

double Flops::connector() const {
  const auto& vlm = config_.vlm;
  return product(size_.images * size_.tokens, real(vlm.vision.hidden_size * vlm.scale_factor * vlm.scale_factor),
                 size_.hidden);
}

double Flops::state() const { return product(1, real(config_.max_state_dim), size_.hidden); }

double Flops::language_block(double own, double seen, bool last) const {
  const double key_value = product(own, size_.hidden, 2 * size_.kv_width);
  return last ? key_value : key_value + rest(own, seen, size_.hidden, config_.vlm.text.intermediate_size);
}

double Flops::rows_block(bool last) const { return language_block(size_.rows, size_.rows, last); }

double Flops::state_block(bool last) const { return language_block(1, size_.rows + 1, last); }

double Flops::cross_keys() const { return product(size_.rows + 1, size_.kv_width, 2 * size_.kv_width); }

double Flops::expert_block(bool self) const {
  const double key_value = self ? product(size_.chunk, size_.expert_hidden, 2 * size_.kv_width) : 0.0;
  const double seen = size_.rows + 1 + (self ? size_.chunk : 0.0);
  return key_value + rest(size_.chunk, seen, size_.expert_hidden, config_.expert_intermediate());
}

double Flops::draw_pair() const { return 2 * product(size_.chunk, size_.chunk, size_.query_width); }

double Flops::suffix_embedding() const {
  return product(size_.chunk, real(config_.max_action_dim), size_.expert_hidden) +
         product(size_.chunk, 3 * size_.expert_hidden, size_.expert_hidden);
}

double Flops::action_projection() const {
  return product(size_.chunk, size_.expert_hidden, real(config_.max_action_dim));
}

double Flops::rest(double own, double seen, double hidden, std::int64_t intermediate) const {
  return product(own, hidden, 2 * size_.query_width) + 2 * product(own, seen, size_.query_width) +
         product(own, hidden, 3.0 * real(intermediate));
}

/// One decoder block as it is run: how many rows go through it, what they see, and how that grows with the draws.
struct Bytes::Block {
  DrawBytes rows;   ///< one float32 for each row
  DrawBytes pairs;  ///< one float32 for each row and key it sees
  DrawBytes seen;   ///< one float32 for each key and value width of what is seen, where it is put together anew
  DrawBytes mask;   ///< what attention makes of the mask
  double hidden = 0;
  double inner = 0;
  bool own_keys = true;  ///< projects keys and values of its rows
};

Bytes::Bytes(const SmolVLAConfig& config) : config_(config), size_(config) {}

StageBytes Bytes::patches() const {
  // The convolution lays its patches out as rows, and the positions are added to a copy.
  return {.workspace = floats(size_.images * size_.patches * real(config_.vlm.vision.hidden_size))};
}

StageBytes Bytes::vision_block(const std::string& block) const {
  const double rows = size_.images * size_.patches;
  const DrawBytes hidden = floats(rows * real(config_.vlm.vision.hidden_size));
  const DrawBytes inner = floats(rows * real(config_.vlm.vision.intermediate_size));
  const DrawBytes statistics = floats(4 * rows);
  const DrawBytes log_sum = floats(rows * real(config_.vlm.vision.heads));
  StageBytes bytes;
  // query, key, value and what attention makes of them (the input of the output projection); the residual; GELU's input
  bytes.saved = 5.0 * hidden + inner + statistics + log_sum;
  bytes.saved_for = {{hidden, weights(block, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})},
                     {hidden, weights(block, {"mlp.fc1"})},
                     {inner, weights(block, {"mlp.fc2"})}};
  // At GELU: first norm, query, key, value, attention, residual, second norm, and its input and output.
  bytes.workspace = 7.0 * hidden + 2.0 * inner + log_sum;
  return bytes;
}

StageBytes Bytes::vision_norm() const { return {.saved = floats(2 * size_.images * size_.patches)}; }

StageBytes Bytes::connector(const std::string& connector) const {
  const DrawBytes merged = floats(size_.images * size_.patches * real(config_.vlm.vision.hidden_size));
  return {.saved_for = {{merged, {connector + ".weight"}}}, .workspace = merged};
}

StageBytes Bytes::prefix_embedding() const { return {.workspace = floats(size_.rows * size_.hidden)}; }

StageBytes Bytes::keys_and_values_alone(double rows, const std::string& block) const {
  const DrawBytes hidden = floats(rows * size_.hidden);
  StageBytes bytes{.saved = floats(rows)};
  bytes.saved_for = {{hidden, weights(block, {"self_attn.k_proj", "self_attn.v_proj"})}};
  bytes.workspace = 3.0 * hidden;
  return bytes;
}

StageBytes Bytes::decoder_block(const Block& sizes, const std::string& block) const {
  const DrawBytes hidden = sizes.hidden * sizes.rows;
  const DrawBytes query = size_.query_width * sizes.rows;
  const DrawBytes inner = sizes.inner * sizes.rows;
  const DrawBytes probabilities = size_.heads * sizes.pairs;
  const DrawBytes seen = 2.0 * size_.kv_width * sizes.seen;
  const Names after_norm = sizes.own_keys ? weights(block, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})
                                          : weights(block, {"self_attn.q_proj"});
  StageBytes bytes;
  // both norms' scales; attention; the residual; gate and up
  bytes.saved = 2.0 * sizes.rows + query + seen + probabilities + sizes.mask + hidden + 2.0 * inner;
  bytes.saved_for = {{hidden, after_norm},
                     {query, weights(block, {"self_attn.o_proj"})},
                     {hidden, weights(block, {"mlp.gate_proj", "mlp.up_proj"})}};
  const DrawBytes attention = hidden + 2.0 * query + seen + 2.0 * probabilities + sizes.mask;
  const DrawBytes mlp = 3.0 * hidden + 2.0 * query + seen + 4.0 * inner;
  const bool attention_is_larger = attention.at(1) > mlp.at(1);
  bytes.workspace = attention_is_larger ? attention : mlp;
  return bytes;
}

StageBytes Bytes::rows_block(const std::string& block, bool last) const {
  if (last) return keys_and_values_alone(size_.rows, block);
  const Block sizes{.rows = floats(size_.rows),
                    .pairs = floats(size_.rows * size_.rows),
                    .mask = {.fixed = size_.rows},
                    .hidden = size_.hidden,
                    .inner = real(config_.vlm.text.intermediate_size)};
  return decoder_block(sizes, block);
}

StageBytes Bytes::state_block(const std::string& block, bool last) const {
  if (last) return keys_and_values_alone(1, block);
  const double seen = size_.rows + 1;
  const Block sizes{.rows = floats(1),
                    .pairs = floats(seen),
                    .seen = floats(seen),
                    .mask = {.fixed = seen},
                    .hidden = size_.hidden,
                    .inner = real(config_.vlm.text.intermediate_size)};
  return decoder_block(sizes, block);
}

StageBytes Bytes::cross_keys(const std::string& block) const {
  const DrawBytes one = floats((size_.rows + 1) * size_.kv_width);
  return {.saved_for = {{one, weights(block, {"self_attn.k_proj"})}, {one, weights(block, {"self_attn.v_proj"})}},
          .workspace = 4.0 * one};
}

StageBytes Bytes::suffix_embedding(const std::string& time_in, const std::string& time_out) const {
  const DrawBytes hidden{.per_draw = kFloatBytes * size_.chunk * size_.expert_hidden};
  return {.saved = hidden,
          .saved_for = {{2.0 * hidden, {time_in + ".weight"}}, {hidden, {time_out + ".weight"}}},
          .workspace = 6.0 * hidden};
}

StageBytes Bytes::expert_block(const std::string& block, bool self) const {
  const double prefix = size_.rows + 1;
  Block sizes{.rows = {.per_draw = kFloatBytes * size_.chunk},
              .pairs = {.per_draw = kFloatBytes * size_.chunk * prefix},
              .mask = {.fixed = prefix},
              .hidden = size_.expert_hidden,
              .inner = real(config_.expert_intermediate()),
              .own_keys = self};
  if (self) {
    sizes.pairs.per_pair = kFloatBytes * size_.chunk * size_.chunk;
    sizes.seen = {.fixed = kFloatBytes * prefix, .per_draw = kFloatBytes * size_.chunk};
    sizes.mask = {.per_draw = size_.chunk * prefix, .per_pair = size_.chunk * size_.chunk};
  }
  return decoder_block(sizes, block);
}

StageBytes Bytes::output(const std::string& projection) const {
  const DrawBytes scale{.per_draw = kFloatBytes * size_.chunk};
  const DrawBytes hidden = size_.expert_hidden * scale;
  return {.saved = scale, .saved_for = {{hidden, {projection + ".weight"}}}, .workspace = 2.0 * hidden};
}

namespace {

class KeyTable {
 public:
  explicit KeyTable(const SmolVLAConfig& config) : config_(config) {}

  std::vector<KeyInfo> build() {
    const std::int64_t cameras = static_cast<std::int64_t>(config_.cameras().size());
    const std::int64_t rows = static_cast<std::int64_t>(SampleSizes(config_).rows);
    const auto& text = config_.vlm.text;
    const std::int64_t chunk = config_.chunk_size;
    add(keys::kPixels, cameras * 3 * config_.image_height, config_.image_width);
    add(keys::kCameraMask, 1, cameras, at::kBool);
    add(keys::kTokens, 1, config_.tokenizer_max_length, at::kLong);
    add(keys::kTokenMask, 1, config_.tokenizer_max_length, at::kBool);
    add(keys::kState, 1, config_.max_state_dim);
    add(keys::kVisionHidden, cameras * config_.patches(), config_.vlm.vision.hidden_size);
    add(keys::kImageTokens, cameras * config_.image_tokens(), text.hidden_size);
    add(keys::kRows, rows, text.hidden_size);
    add(keys::kRowMask, 1, rows, at::kBool);
    add(keys::kRowRotary, rows, text.head_dim);
    add(keys::kStateRow, 1, text.hidden_size);
    add(keys::kStateRotary, 1, text.head_dim);
    add(keys::kPrefixMask, 1, rows + 1, at::kBool);
    add(keys::kSuffixMask, chunk, rows + 1 + chunk, at::kBool);
    add(keys::kSuffixRotary, chunk, text.head_dim);
    add(keys::kCrossRotary, chunk, text.head_dim);
    for (std::int64_t i = 0; i <= config_.last_language_layer(); ++i) {
      add_key_value("A", i, rows);
      add_key_value("B", i, 1);
    }
    for (std::int64_t e = 0; e < config_.expert_layers(); ++e) {
      if (config_.cross_projection(e)) add_key_value("cross", e, rows + 1);
    }
    add_for_each_draw(keys::kDrawMask, chunk, rows + 1 + chunk, at::kBool);
    add_for_each_draw(keys::kDrawRotary, chunk, text.head_dim);
    add_for_each_draw(keys::kDrawCrossRotary, chunk, text.head_dim);
    add_for_each_draw(keys::kNoisyActions, chunk, config_.max_action_dim);
    add_for_each_draw(keys::kTime, 1, 1);
    add_for_each_draw(keys::kSuffixHidden, chunk, config_.expert_hidden());
    add_for_each_draw(keys::kVelocity, chunk, config_.max_action_dim);
    return std::move(table_);
  }

 private:
  void add(const std::string& name, std::int64_t rows, std::int64_t width, at::ScalarType dtype = at::kFloat) {
    table_.push_back({.name = name, .elements = rows * width, .width = width, .dtype = dtype});
  }

  void add_for_each_draw(const std::string& name, std::int64_t rows, std::int64_t width,
                         at::ScalarType dtype = at::kFloat) {
    add(name, rows, width, dtype);
    table_.back().per_draw = true;
  }

  void add_key_value(const std::string& stream, std::int64_t index, std::int64_t rows) {
    const auto& text = config_.vlm.text;
    for (const char* kind : {".key.", ".value."}) {
      add(stream + kind + std::to_string(index), text.kv_heads * rows, text.head_dim);
    }
  }

  const SmolVLAConfig& config_;
  std::vector<KeyInfo> table_;
};

}  // namespace

std::vector<KeyInfo> key_table(const SmolVLAConfig& config) { return KeyTable(config).build(); }

}  // namespace thaw::smolvla
