/// Which rows of a residual stream hold what, as masks.
///
/// Legend: B batch, C cameras, I tokens per image, L language tokens, R rows, T chunk_size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "thaw/policy/policy.h"

namespace thaw::models {

/// (B, C) -> (B, C · each), every flag `each` times.
[[nodiscard]] at::Tensor for_each_row(const at::Tensor& flags, std::int64_t each);

/// "image" and "text" of a stream that holds image rows (B, …) and then the text (B, L), from the flags of both.
[[nodiscard]] std::vector<TokenGroup> image_and_text(const at::Tensor& image, const at::Tensor& text);

/// "image" alone.
[[nodiscard]] std::vector<TokenGroup> image_alone(const at::Tensor& image);

/// "state": the only row of `hidden`.
[[nodiscard]] std::vector<TokenGroup> state_alone(const at::Tensor& hidden);

/// "action": the actions of every draw in `hidden` (B, n T, width), without those past the end of the episode.
[[nodiscard]] std::vector<TokenGroup> actions_alone(const at::Tensor& hidden, std::int64_t chunk, const Batch& batch);

}  // namespace thaw::models
