/// What travels from the dataset to the policy: named tensors with LeRobot's keys.
///
/// Legend: B batch, T time steps, D vector width, C/H/W image channels, height, width.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace thaw {

/// One dataset frame, without batch dimension.
struct Sample {
  /// "observation.images.*" (C, H, W) uint8 0..255 or float32 [0, 1]; "observation.state" (D) float32;
  /// "action" (T, D) float32; "action_is_pad" (T) bool; scalars rank 0.
  std::map<std::string, at::Tensor> tensors;
  std::string task;
  std::int64_t index = 0;  ///< global frame number in the dataset
  std::int64_t episode = 0;
};

/// B samples stacked: every tensor gains a leading B.
struct Batch {
  std::map<std::string, at::Tensor> tensors;
  std::vector<std::string> tasks;     ///< B texts
  std::vector<std::int64_t> indices;  ///< B global frame numbers (keys of random draws and of cache entries)

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(indices.size()); }
  [[nodiscard]] bool has(const std::string& key) const { return tensors.contains(key); }
  /// @throws MismatchError naming the key and the keys there are
  [[nodiscard]] const at::Tensor& at(const std::string& key) const;
};

/// Stacks samples. @throws MismatchError when they differ in keys, shapes or dtypes (naming key, both shapes, both
/// frames)
[[nodiscard]] Batch collate(std::span<const Sample> samples);

/// The batch with every tensor on `device`.
[[nodiscard]] Batch to_device(Batch batch, at::Device device);

/// uint8 images ("observation.image*") become float32 in [0, 1] (value / 255), as LeRobot's trainer does before its
/// processors.
void images_to_float(Batch& batch);

}  // namespace thaw
