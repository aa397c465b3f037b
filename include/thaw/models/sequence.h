/// Where the tokens of a prefix stand, and the time embedding of flow matching, for all models that have them. Pure
/// functions of small tensors. Reference: lerobot/policies/{smolvla,pi0}/modeling_*.py.
///
/// Legend: B batch, C cameras, L language tokens, N rows of the prefix (images, then language).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thaw::models {

/// Which rows are real: camera_mask (B, C) bool over `image_tokens` rows per camera, then token_mask (B, L) bool
/// -> (B, N) bool.
[[nodiscard]] at::Tensor row_mask(const at::Tensor& camera_mask, const at::Tensor& token_mask,
                                  std::int64_t image_tokens);

/// The number of valid rows before each row, (B, N) int64; a masked row repeats the one before it and a leading one has
/// -1.
[[nodiscard]] at::Tensor row_positions(const at::Tensor& rows);

/// Position of the state's row, the first behind the prefix, (B, 1) int64: the number of valid rows.
[[nodiscard]] at::Tensor state_position(const at::Tensor& rows);

/// What sees the prefix and the state's row behind it, which is always real: (B, N) -> (B, 1, N + 1) bool
[[nodiscard]] at::Tensor prefix_mask(const at::Tensor& rows);

/// The mask (B, T, N + T) of T queries that see N rows and, as it says, each other, for `draws` such chunks one after
/// the other along the queries: each sees the N rows and its own chunk. -> (B, K · T, N + K · T)
[[nodiscard]] at::Tensor fold_draws(const at::Tensor& mask, std::int64_t draws);

/// Sine and cosine embedding of the time, (B) -> (B, width) float64. Periods run geometrically from min to max.
[[nodiscard]] at::Tensor time_embedding(const at::Tensor& time, std::int64_t width, double min_period,
                                        double max_period);

}  // namespace thaw::models
