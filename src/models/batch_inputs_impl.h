/// From a preprocessed batch to what the first stages of a policy read: what the models have in common.
///
/// Legend: B batch, H/W height, width, L language tokens, D real width of a vector.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "thaw/models/camera_inputs.h"
#include "thaw/policy/batch.h"
#include "thaw/policy/prefix_state.h"

namespace thaw::models {

inline constexpr const char* kStateKey = "observation.state";
inline constexpr const char* kActionKey = "action";
inline constexpr const char* kActionPadKey = "action_is_pad";

/// @throws MismatchError naming the key, what was expected, and the tensor's shape and dtype
[[noreturn]] void refuse_shape(const std::string& key, const std::string& expected, const at::Tensor& found);
/// @throws MismatchError unless `tensor` has this shape
void require_shape(const std::string& where, const at::Tensor& tensor, at::IntArrayRef shape);

/// Images of a camera, (B, 3, H, W) or the last of (B, time, 3, H, W), as floats in [0, 1].
[[nodiscard]] at::Tensor camera_image(const std::string& key, const Batch& batch);

/// Those of `configured` that the batch has, in that order. @throws MismatchError when there is none
[[nodiscard]] std::vector<std::string> present_cameras(const std::vector<std::string>& configured, const Batch& batch);

/// The size that fits into height x width without distortion: the sides over the larger ratio, truncated.
struct ImageSize {
  std::int64_t height = 0;
  std::int64_t width = 0;
};
/// @throws MismatchError when the image is so long that one side would vanish
[[nodiscard]] ImageSize fitted_size(ImageSize image, ImageSize target);

/// What a model makes of a camera's images (B, 3, H, W) in [0, 1], and its mask (B).
struct CameraRules {
  std::function<at::Tensor(const std::string& key, const at::Tensor& images)> fit;  ///< -> (B, 3, S, S) in [0, 1]
  std::function<at::Tensor(const std::string& key, const at::Tensor& images)> mask;
  std::int64_t most_filled = 0;  ///< missing cameras that are filled with -1 and masked, behind those that are there
};
/// @throws MismatchError when no camera is there, or the cameras' batches differ
[[nodiscard]] CameraInputs stack_cameras(const std::vector<std::string>& configured, const Batch& batch,
                                         const CameraRules& rules);

/// The vector under `key`, (B, D) or the last of (B, time, D), as floats.
[[nodiscard]] at::Tensor last_vector(const std::string& key, const Batch& batch);

/// Chunks (B, T, D) under "action" as floats. @throws MismatchError for another shape
[[nodiscard]] at::Tensor action_chunks(const Batch& batch, std::int64_t chunk, std::int64_t width);

/// Zeros behind each vector. @throws MismatchError when it is wider already
[[nodiscard]] at::Tensor pad_width(const at::Tensor& vectors, std::int64_t width, const std::string& key);

/// Ids below the vocabulary (checked on the CPU only: on a device the check would wait for it) and their bool mask,
/// under the keys that the tokenizer step writes. (B, L) each.
struct TokenInputs {
  at::Tensor tokens;
  at::Tensor mask;
};
[[nodiscard]] TokenInputs token_inputs(const Batch& batch, std::int64_t vocabulary);

}  // namespace thaw::models
