/// From a preprocessed batch to what SmolVLA's first stages read.
/// Reference: lerobot/policies/smolvla/modeling_smolvla.py (prepare_images, prepare_state).
///
/// Legend: B batch, C cameras, H/W height, width, T chunk_size, D real width of a vector.
#pragma once

#include <ATen/core/Tensor.h>

#include "thaw/models/aloha.h"
#include "thaw/models/camera_inputs.h"
#include "thaw/models/smolvla/config.h"
#include "thaw/policy/batch.h"

namespace thaw::smolvla {

using thaw::aloha_actions_to_pi;
using thaw::aloha_state_to_pi;
using thaw::pi_actions_to_aloha;

/// Fits images (B, 3, H, W) into height x width without distortion: bilinear without antialiasing, new sizes truncated,
/// zeros on the left and on top. Unchanged when the size is right already.
/// @throws MismatchError when the image is so long that one side would vanish
[[nodiscard]] at::Tensor resize_with_padding(const at::Tensor& images, std::int64_t height, std::int64_t width);

/// The configured cameras that the batch has, in the configuration's order, then up to `empty_cameras` masked ones of
/// -1 for those it lacks. Images are (B, 3, H, W) or (B, time, 3, H, W), of which the last is taken; uint8 or float in
/// [0, 1].
/// "<camera>_padding_mask" (B) says which rows are real.
/// @throws MismatchError when no camera is there, or one has another shape
[[nodiscard]] CameraInputs camera_inputs(const SmolVLAConfig& config, const Batch& batch);

/// State (B, D) or (B, time, D), of which the last is taken, padded with zeros to (B, max_state_dim).
[[nodiscard]] at::Tensor state_input(const SmolVLAConfig& config, const Batch& batch);

/// Action (B, T, D) padded with zeros to (B, T, max_action_dim).
[[nodiscard]] at::Tensor action_target(const SmolVLAConfig& config, const Batch& batch);

}  // namespace thaw::smolvla
