/// Where the tokens of a SmolVLA forward pass stand and what they see: padding, positions, masks, time embedding.
/// Pure functions of small tensors. Reference: lerobot/policies/smolvla/modeling_smolvla.py.
///
/// Legend: B batch, K draws, C cameras, I tokens per image, L language tokens, N rows of A (images and language), T
/// chunk_size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thaw::smolvla {

/// Which rows of A are real: camera_mask (B, C) bool over `image_tokens` rows per camera, token_mask (B, L) bool
/// -> (B, N) bool. With `special_tokens`, two rows before and one after each image, valid even for a masked camera.
[[nodiscard]] at::Tensor row_mask(const at::Tensor& camera_mask, const at::Tensor& token_mask,
                                  std::int64_t image_tokens, bool special_tokens);

/// Positions of A: the number of valid rows before each row, (B, N) int64; a masked row repeats the one before it and a
/// leading one has -1.
[[nodiscard]] at::Tensor row_positions(const at::Tensor& rows);

/// Position of the state row, (B, 1) int64: the number of valid rows of A.
[[nodiscard]] at::Tensor state_position(const at::Tensor& rows);

/// Positions of the actions behind the prefix, (B, T) int64.
[[nodiscard]] at::Tensor suffix_positions(const at::Tensor& rows, std::int64_t chunk);

/// What B and the cross layers see: A's valid rows and the state row. (B, N) -> (B, 1, N + 1) bool
[[nodiscard]] at::Tensor prefix_mask(const at::Tensor& rows);

/// What action k sees in a self layer: the prefix and the actions up to itself. (B, N) -> (B, T, N + 1 + T) bool
[[nodiscard]] at::Tensor suffix_mask(const at::Tensor& rows, std::int64_t chunk);

/// The mask of suffix_mask for `draws` chunks one after the other along the queries: each sees the prefix and its own
/// actions. (B, T, N + 1 + T) -> (B, K · T, N + 1 + K · T)
[[nodiscard]] at::Tensor fold_draws(const at::Tensor& suffix_mask, std::int64_t draws);

/// Sine and cosine embedding of the time, (B) -> (B, width) float64. Periods run geometrically from min to max.
[[nodiscard]] at::Tensor time_embedding(const at::Tensor& time, std::int64_t width, double min_period,
                                        double max_period);

/// Rows of the vision tower's position table for a grid of `rows` x `rows` patches, (rows²) int64, as transformers
/// works them out: fractional coordinates in `dtype` put into `table_side` buckets.
[[nodiscard]] at::Tensor vision_position_ids(std::int64_t rows, std::int64_t table_side, at::ScalarType dtype);

}  // namespace thaw::smolvla
