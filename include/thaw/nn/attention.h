/// Rotary positions and grouped-query attention.
///
/// Legend: B batch, L queries, S keys, H query heads, K key/value heads (H a multiple of K), d head width.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thaw::nn {

struct HeadShape {
  std::int64_t heads = 1;      ///< H
  std::int64_t kv_heads = 1;   ///< K
  std::int64_t head_dim = 64;  ///< d
};

/// Keys after rotation and values, (B, K, S, d) each.
struct KeyValue {
  at::Tensor key;
  at::Tensor value;
};

/// Joins along the tokens. Dtypes may differ; the result has the wider.
[[nodiscard]] KeyValue concatenate(at::ArrayRef<KeyValue> parts);

/// (B, L, heads · d) -> (B, heads, L, d), a view.
[[nodiscard]] at::Tensor split_heads(const at::Tensor& x, std::int64_t head_dim);
/// (B, heads, L, d) -> (B, L, heads · d).
[[nodiscard]] at::Tensor merge_heads(const at::Tensor& x);

/// Cosines and sines of positions (B, L) integer -> (B, L, d) float32, cosines in the first half and sines in the
/// second: angle k = position / base^(2k/d), all in float32 (LeRobot smolvlm_with_expert.apply_rope divides by a
/// float32 power).
[[nodiscard]] at::Tensor rotary_table(const at::Tensor& positions, std::int64_t head_dim, double base);

/// Rotates the two halves of every head. x (B, heads, L, d); table (B or 1, L, d) of rotary_table.
/// Computed in float32 (float64 for float64), returned in x's dtype, contiguous.
[[nodiscard]] at::Tensor apply_rotary(const at::Tensor& x, const at::Tensor& table);

/// Softmax attention as LeRobot's eager path computes it: scores and softmax in float32 (float64 for float64), scaled
/// by d^-0.5 after the product; masked scores are *replaced* by the smallest finite number, so that a row without any
/// valid key is a plain average and never NaN; probabilities are cast to the dtype of the values. query (B, H, L, d);
/// `seen` one after the other along the tokens, S in all; mask bool (B, L or 1, S) true where attended -> (B, L, H ·
/// d). Keys and values are not repeated per query head: the heads of a group are stacked along the queries instead. For
/// backward only the arguments are kept; it joins them and computes the probabilities again (as FlashAttention does,
/// Dao et al. 2022, section 3.1, without its tiles).
[[nodiscard]] at::Tensor attention(const at::Tensor& query, at::ArrayRef<KeyValue> seen, const at::Tensor& mask);

}  // namespace thaw::nn
