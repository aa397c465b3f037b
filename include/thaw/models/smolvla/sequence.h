/// Where the tokens of a SmolVLA forward pass stand and what they see, beside what all models have in common
/// (models/sequence.h). Pure functions of small tensors. Reference: lerobot/policies/smolvla/modeling_smolvla.py.
///
/// Legend: B batch, C cameras, L language tokens, N rows of A (images and language), T chunk_size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "thaw/models/sequence.h"

namespace thaw::smolvla {

using models::fold_draws;
using models::prefix_mask;
using models::row_positions;
using models::state_position;
using models::time_embedding;

/// models::row_mask; with `special_tokens`, two rows before and one after each image, valid even for a masked camera.
[[nodiscard]] at::Tensor row_mask(const at::Tensor& camera_mask, const at::Tensor& token_mask,
                                  std::int64_t image_tokens, bool special_tokens);

/// Positions of the actions behind the prefix, (B, T) int64.
[[nodiscard]] at::Tensor suffix_positions(const at::Tensor& rows, std::int64_t chunk);

/// What action k sees in a self layer: the prefix and the actions up to itself. (B, N) -> (B, T, N + 1 + T) bool
[[nodiscard]] at::Tensor suffix_mask(const at::Tensor& rows, std::int64_t chunk);

/// Rows of the vision tower's position table for a grid of `rows` x `rows` patches, (rows²) int64, as transformers
/// works them out: fractional coordinates in `dtype` put into `table_side` buckets.
[[nodiscard]] at::Tensor vision_position_ids(std::int64_t rows, std::int64_t table_side, at::ScalarType dtype);

}  // namespace thaw::smolvla
