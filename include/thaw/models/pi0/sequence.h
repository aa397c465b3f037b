/// Where the tokens of pi0's suffix stand and what they see, beside what all models have in common (models/sequence.h).
/// Reference: lerobot/policies/pi0/modeling_pi0.py (embed_suffix, make_att_2d_masks).
///
/// Legend: B batch, N rows of the prefix, S rows of the state before the actions (pi0: 1, pi0.5: 0), T chunk_size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "thaw/models/sequence.h"

namespace thaw::pi0 {

/// Positions of the actions behind the prefix and the state, (B, T) int64. rows (B, N) bool.
[[nodiscard]] at::Tensor suffix_positions(const at::Tensor& rows, std::int64_t state_rows, std::int64_t chunk);

/// What an action sees: the prefix, the state and every action of its chunk. (B, N) -> (B, T, N + S + T) bool
[[nodiscard]] at::Tensor suffix_mask(const at::Tensor& rows, std::int64_t state_rows, std::int64_t chunk);

}  // namespace thaw::pi0
