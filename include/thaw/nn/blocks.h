/// Transformer blocks: a Llama decoder block taken apart (its keys and values have readers of their own) and a ViT
/// block.
///
/// Legend: B batch, L tokens, D hidden width, H query heads, d head width.
#pragma once

#include <string>

#include "thaw/nn/attention.h"
#include "thaw/nn/linear.h"

namespace thaw::nn {

/// A pre-norm block of the Llama family.
struct DecoderBlock {
  RmsNorm input_norm;
  Linear query;
  Linear key;
  Linear value;
  Linear output;
  RmsNorm post_attention_norm;
  GatedMlp mlp;
  std::int64_t head_dim = 64;
};

/// The parameters <prefix>.{input_layernorm, self_attn.{q,k,v,o}_proj, post_attention_layernorm, mlp.…}.
[[nodiscard]] DecoderBlock find_decoder_block(const ParameterMap& parameters, const std::string& prefix,
                                              std::int64_t head_dim, double eps);

/// Query of normed tokens (B, L, D) -> (B, H, L, d), rotated by `rotary` (B or 1, L, d).
[[nodiscard]] at::Tensor block_query(const DecoderBlock& block, const at::Tensor& normed, const at::Tensor& rotary);
/// Keys and values of normed tokens (B, L, D), keys rotated.
[[nodiscard]] KeyValue block_key_value(const DecoderBlock& block, const at::Tensor& normed, const at::Tensor& rotary);
/// What follows attention: output projection, residual, norm, MLP, residual. The residual stream takes the dtype of the
/// output projection, as the reference's in-place additions make it. x (B, L, D), attended (B, L, H · d) -> (B, L, D)
[[nodiscard]] at::Tensor block_finish(const DecoderBlock& block, const at::Tensor& x, const at::Tensor& attended);

/// A pre-norm ViT block (SigLIP): LayerNorm, full attention with biases, GELU (tanh) MLP.
struct VitBlock {
  LayerNorm norm1;
  Linear query;
  Linear key;
  Linear value;
  Linear output;
  LayerNorm norm2;
  Linear fc1;
  Linear fc2;
  std::int64_t heads = 1;
};

/// The parameters <prefix>.{layer_norm1, self_attn.{q,k,v,out}_proj, layer_norm2, mlp.fc1, mlp.fc2}.
[[nodiscard]] VitBlock find_vit_block(const ParameterMap& parameters, const std::string& prefix, std::int64_t heads,
                                      double eps);
/// x (B, L, D) -> (B, L, D).
[[nodiscard]] at::Tensor vit_block(const VitBlock& block, const at::Tensor& x);

}  // namespace thaw::nn
