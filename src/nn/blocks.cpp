#include "thaw/nn/blocks.h"

#include <ATen/ATen.h>

namespace thaw::nn {

DecoderBlock find_decoder_block(const ParameterMap& parameters, const std::string& prefix, std::int64_t head_dim,
                                double eps) {
  const std::string attention = prefix + ".self_attn";
  return {.input_norm = {.weight = find_parameter(parameters, prefix + ".input_layernorm.weight"), .eps = eps},
          .query = find_linear(parameters, attention + ".q_proj"),
          .key = find_linear(parameters, attention + ".k_proj"),
          .value = find_linear(parameters, attention + ".v_proj"),
          .output = find_linear(parameters, attention + ".o_proj"),
          .post_attention_norm = {.weight = find_parameter(parameters, prefix + ".post_attention_layernorm.weight"),
                                  .eps = eps},
          .mlp = find_gated_mlp(parameters, prefix + ".mlp"),
          .head_dim = head_dim};
}

at::Tensor block_query(const DecoderBlock& block, const at::Tensor& normed, const at::Tensor& rotary) {
  return apply_rotary(split_heads(linear(normed, block.query), block.head_dim), rotary);
}

KeyValue block_key_value(const DecoderBlock& block, const at::Tensor& normed, const at::Tensor& rotary) {
  return {.key = apply_rotary(split_heads(linear(normed, block.key), block.head_dim), rotary),
          .value = split_heads(linear(normed, block.value), block.head_dim).contiguous()};
}

at::Tensor block_finish(const DecoderBlock& block, const at::Tensor& x, const at::Tensor& attended) {
  const at::Tensor residual = linear_add(attended, block.output, x);
  return gated_mlp(rms_norm(residual, block.post_attention_norm), block.mlp).add_(residual);
}

VitBlock find_vit_block(const ParameterMap& parameters, const std::string& prefix, std::int64_t heads, double eps) {
  const std::string attention = prefix + ".self_attn";
  return {.norm1 = find_layer_norm(parameters, prefix + ".layer_norm1", eps),
          .query = find_linear(parameters, attention + ".q_proj"),
          .key = find_linear(parameters, attention + ".k_proj"),
          .value = find_linear(parameters, attention + ".v_proj"),
          .output = find_linear(parameters, attention + ".out_proj"),
          .norm2 = find_layer_norm(parameters, prefix + ".layer_norm2", eps),
          .fc1 = find_linear(parameters, prefix + ".mlp.fc1"),
          .fc2 = find_linear(parameters, prefix + ".mlp.fc2"),
          .heads = heads};
}

at::Tensor vit_block(const VitBlock& block, const at::Tensor& x) {
  const std::int64_t head_dim = x.size(-1) / block.heads;
  const at::Tensor normed = layer_norm(x, block.norm1);
  const at::Tensor query = split_heads(linear(normed, block.query), head_dim);
  const at::Tensor key = split_heads(linear(normed, block.key), head_dim);
  const at::Tensor value = split_heads(linear(normed, block.value), head_dim);
  const at::Tensor attended =
      at::scaled_dot_product_attention(query, key.to(query.scalar_type()), value.to(query.scalar_type()));
  const at::Tensor residual = linear_add(merge_heads(attended), block.output, x);
  return linear_add(linear_gelu(layer_norm(residual, block.norm2), block.fc1), block.fc2, residual);
}

}  // namespace thaw::nn
