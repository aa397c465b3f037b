/// Gemma's decoder block as pi0 and pi0.5 run it: norms that multiply by (1 + weight) or by what a condition asks for,
/// a GELU (tanh) gate, and residuals that a condition may gate. Keys and values have readers of their own. Reference:
/// lerobot/policies/pi_gemma.py, transformers modeling_gemma.py.
///
/// Legend: B batch, L tokens, D hidden width, C width of a condition, K conditions of one sample (L a multiple of K),
/// d head width.
#pragma once

#include <string>

#include "thaw/nn/blocks.h"

namespace thaw::nn {

/// Cosines and sines of positions (B, L) integer -> (B, L, d) float32, laid out as rotary_table's: angle k = position ·
/// (1 / base^(2k/d)), power, reciprocal and product in float32. `rounded` first rounds the reciprocals to bfloat16, as
/// a model does whose buffers were cast with its weights.
[[nodiscard]] at::Tensor gemma_rotary_table(const at::Tensor& positions, std::int64_t head_dim, double base,
                                            bool rounded = false);

/// A root-mean-square norm. Plain: x / rms(x) · (1 + weight). Adaptive, where `modulation` is defined: scale, shift and
/// gate are thirds of modulation(condition), and the norm is x / rms(x) · (1 + scale) + shift.
struct GemmaNorm {
  at::Tensor weight;  ///< (D); undefined in an adaptive norm
  Linear modulation;  ///< (3 D, C) with bias; undefined in a plain norm
  double eps = 1e-6;

  [[nodiscard]] bool adaptive() const { return modulation.weight.defined(); }
};

/// <prefix>.weight, or <prefix>.dense.{weight,bias} where there is no such weight. @throws UsageError for neither
[[nodiscard]] GemmaNorm find_gemma_norm(const ParameterMap& parameters, const std::string& prefix, double eps);

struct GemmaNormed {
  at::Tensor rows;  ///< (B, L, D) in x's dtype
  at::Tensor gate;  ///< (B, K, 1, D) in x's dtype; undefined after a plain norm
};

/// Computed in float32 (float64 for float64) and rounded to the dtype of `x` at the end. x (B, L, D); condition
/// (B, K, C), read by an adaptive norm only: condition k is that of rows k · L / K and the following L / K.
[[nodiscard]] GemmaNormed gemma_norm(const at::Tensor& x, const GemmaNorm& norm, const at::Tensor& condition = {});

struct GemmaBlock {
  GemmaNorm input_norm;
  DecoderBlock layers;  ///< projections and MLP; its norms are not used
  GemmaNorm post_attention_norm;
};

/// The parameters <prefix>.{input_layernorm, self_attn.{q,k,v,o}_proj, post_attention_layernorm, mlp.…}.
[[nodiscard]] GemmaBlock find_gemma_block(const ParameterMap& parameters, const std::string& prefix,
                                          std::int64_t head_dim, double eps);

/// What follows attention: output projection, residual, norm, MLP, residual; `gate` (B, K, 1, D), if defined,
/// multiplies the first branch, the second norm's own gate the second. The stream keeps the wider dtype of the two that
/// meet. x (B, L, D), attended (B, L, H · d) -> (B, L, D)
[[nodiscard]] at::Tensor gemma_finish(const GemmaBlock& block, const at::Tensor& x, const at::Tensor& attended,
                                      const at::Tensor& gate = {}, const at::Tensor& condition = {});

/// `x`, as if it were computed with `parameter` but did not depend on it: backward gives the parameter a gradient of
/// zeros. For a weight whose product is read by nobody but which the reference's optimizer decays.
[[nodiscard]] at::Tensor with_zero_gradient(const at::Tensor& x, const at::Tensor& parameter);

}  // namespace thaw::nn
