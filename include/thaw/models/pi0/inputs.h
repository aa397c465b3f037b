/// From a preprocessed batch to what pi0's first stages read.
/// Reference: lerobot/policies/pi0/modeling_pi0.py (resize_with_pad_torch, _preprocess_images, prepare_state).
///
/// Legend: B batch, C cameras, H/W height, width, T chunk_size, D real width of a vector.
#pragma once

#include <ATen/core/Tensor.h>

#include "thaw/models/camera_inputs.h"
#include "thaw/models/pi0/config.h"
#include "thaw/policy/batch.h"

namespace thaw::pi0 {

/// Fits images (B, 3, H, W) in [0, 1] into a square of `side` without distortion: bilinear without antialiasing, new
/// sizes truncated, cut to [0, 1], zeros around the centred image (the odd one behind). Unchanged when the size is
/// right already. @throws MismatchError when the image is so long that one side would vanish
[[nodiscard]] at::Tensor resize_centred(const at::Tensor& images, std::int64_t side);

/// The configured cameras that the batch has, in the configuration's order, then a masked image of -1 for each that it
/// lacks. Images are (B, 3, H, W) or (B, time, 3, H, W), of which the last is taken; uint8 or float in [0, 1].
/// @throws MismatchError when no camera is there, or one has another shape
[[nodiscard]] CameraInputs camera_inputs(const Pi0Config& config, const Batch& batch);

/// State (B, D) or (B, time, D), of which the last is taken, padded with zeros to (B, max_state_dim).
[[nodiscard]] at::Tensor state_input(const Pi0Config& config, const Batch& batch);

/// Action (B, T, D) padded with zeros to (B, T, max_action_dim).
[[nodiscard]] at::Tensor action_target(const Pi0Config& config, const Batch& batch);

}  // namespace thaw::pi0
