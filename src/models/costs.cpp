#include "costs_impl.h"

namespace thaw::models {

DrawBytes operator+(const DrawBytes& a, const DrawBytes& b) {
  return {.fixed = a.fixed + b.fixed, .per_draw = a.per_draw + b.per_draw, .per_pair = a.per_pair + b.per_pair};
}

DrawBytes operator*(double factor, const DrawBytes& bytes) {
  return {.fixed = factor * bytes.fixed, .per_draw = factor * bytes.per_draw, .per_pair = factor * bytes.per_pair};
}

std::vector<std::string> weights(const std::string& prefix, std::initializer_list<const char*> modules) {
  std::vector<std::string> names;
  for (const char* module : modules) names.push_back(prefix + "." + module + ".weight");
  return names;
}

StageBytes decoder_bytes(const DecoderSizes& sizes, const std::string& block) {
  const DrawBytes hidden = sizes.hidden * sizes.rows;
  const DrawBytes query = sizes.query_width * sizes.rows;
  const DrawBytes inner = sizes.inner * sizes.rows;
  const DrawBytes probabilities = sizes.heads * sizes.pairs;
  const DrawBytes seen = 2.0 * sizes.kv_width * sizes.seen;
  const std::vector<std::string> after_norm =
      sizes.own_keys ? weights(block, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})
                     : weights(block, {"self_attn.q_proj"});
  StageBytes bytes;
  // both norms' scales; the query; the residual; gate and up
  bytes.saved = 2.0 * sizes.rows + query + hidden + 2.0 * inner;
  if (sizes.own_keys && !sizes.writes_keys) bytes.saved = bytes.saved + 2.0 * sizes.kv_width * sizes.rows;
  if (sizes.gated_residuals) bytes.saved = bytes.saved + 2.0 * hidden;
  bytes.saved_for = {{hidden, after_norm},
                     {query, weights(block, {"self_attn.o_proj"})},
                     {hidden, weights(block, {"mlp.gate_proj", "mlp.up_proj"})},
                     // made again for the weight's gradient, but kept for an adapter's (policy/adapters.h)
                     {inner, {block + ".mlp.down_proj.lora_A.weight"}}};
  // of its backward: what is joined and the gradients of that, the probabilities, their gradients and those of the
  // scores
  const DrawBytes attention = hidden + 3.0 * query + 2.0 * seen + 3.0 * probabilities + sizes.mask;
  const DrawBytes mlp = 3.0 * hidden + 2.0 * query + seen + 4.0 * inner;
  const bool attention_is_larger = attention.at(1) > mlp.at(1);
  bytes.workspace = attention_is_larger ? attention : mlp;
  return bytes;
}

StageBytes keys_and_values_bytes(double rows, double hidden_width, const std::string& block) {
  const DrawBytes hidden = floats(rows * hidden_width);
  StageBytes bytes{.saved = floats(rows)};
  bytes.saved_for = {{hidden, weights(block, {"self_attn.k_proj", "self_attn.v_proj"})}};
  bytes.workspace = 3.0 * hidden;
  return bytes;
}

double decoder_flops(const DecoderSizes& sizes, double own, double seen) {
  return product_flops(own, sizes.hidden, 2 * sizes.query_width) + 2 * product_flops(own, seen, sizes.query_width) +
         product_flops(own, sizes.hidden, 3.0 * sizes.inner);
}

double keys_and_values_flops(const DecoderSizes& sizes, double own) {
  return product_flops(own, sizes.hidden, 2 * sizes.kv_width);
}

void KeyTable::add(const std::string& name, std::int64_t rows, std::int64_t width, at::ScalarType dtype) {
  table_.push_back({.name = name, .elements = rows * width, .width = width, .dtype = dtype});
}

void KeyTable::add_for_each_draw(const std::string& name, std::int64_t rows, std::int64_t width, at::ScalarType dtype) {
  add(name, rows, width, dtype);
  table_.back().per_draw = true;
}

void KeyTable::add_key_value(const std::string& stream, std::int64_t index, std::int64_t rows, std::int64_t head_dim) {
  for (const char* kind : {".key.", ".value."}) add(stream + kind + std::to_string(index), rows, head_dim);
}

}  // namespace thaw::models
