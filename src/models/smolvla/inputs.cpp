#include "thaw/models/smolvla/inputs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <vector>

#include "thaw/core/error.h"

namespace thaw::smolvla {
namespace {

constexpr std::array<std::int64_t, 4> kMirroredJoints{1, 2, 8, 9};
constexpr std::array<std::int64_t, 2> kGrippers{6, 13};

struct Range {
  double low = 0.0;
  double high = 1.0;
};

constexpr Range kPuppetGripperPosition{0.01844, 0.05800};  ///< metres, closed and open (Aloha)
constexpr Range kPuppetGripperJoint{-0.6213, 1.4910};      ///< radians, closed and open (Aloha)
constexpr Range kPiGripper{0.4, 1.5};                      ///< radians, as pi measures
constexpr double kGripperArm = 0.036;                      ///< metres (Interbotix)
constexpr double kGripperHorn = 0.022;

at::Tensor normalise(const at::Tensor& x, Range range) { return (x - range.low) / (range.high - range.low); }
at::Tensor unnormalise(const at::Tensor& x, Range range) { return x * (range.high - range.low) + range.low; }

at::Tensor linear_gripper_to_angle(const at::Tensor& opening) {
  const at::Tensor position = unnormalise(opening, kPuppetGripperPosition);
  const at::Tensor sine = (position * position + (kGripperHorn * kGripperHorn - kGripperArm * kGripperArm)) /
                          (2.0 * kGripperHorn * position);
  return normalise(sine.clamp(-1.0, 1.0).asin(), kPiGripper);
}

at::Tensor mirror_joints(const at::Tensor& vectors) {
  at::Tensor out = vectors.clone();
  for (const std::int64_t joint : kMirroredJoints) out.select(-1, joint).neg_();
  return out;
}

template <class Map>
at::Tensor map_grippers(at::Tensor vectors, Map map) {
  for (const std::int64_t gripper : kGrippers) {
    at::Tensor column = vectors.select(-1, gripper);
    column.copy_(map(column));
  }
  return vectors;
}

std::string shape_text(const at::Tensor& tensor) { return fmt::format("({})", fmt::join(tensor.sizes(), ", ")); }

[[noreturn]] void refuse_shape(const std::string& key, const std::string& expected, const at::Tensor& found) {
  throw MismatchError(Problem{.where = key,
                              .expected = expected,
                              .found = shape_text(found) + " " + std::string(c10::toString(found.scalar_type()))});
}

at::Tensor as_float_image(const at::Tensor& image) {
  if (image.scalar_type() == at::kByte) return image.to(at::kFloat).div_(255.0);
  return image.scalar_type() == at::kDouble ? image : image.to(at::kFloat);
}

at::Tensor camera_image(const std::string& key, const Batch& batch) {
  at::Tensor image = batch.at(key);
  if (image.dim() == 5 && image.size(1) > 0) image = image.select(1, image.size(1) - 1);
  const bool usable = image.dim() == 4 && image.size(1) == 3 && image.size(2) > 0 && image.size(3) > 0 &&
                      (image.is_floating_point() || image.scalar_type() == at::kByte);
  if (!usable) refuse_shape(key, "images (batch, 3, height, width) of uint8 or floats in [0, 1]", batch.at(key));
  return as_float_image(image);
}

at::Tensor camera_mask(const std::string& key, const Batch& batch, const at::Tensor& image) {
  const std::string mask_key = key + "_padding_mask";
  if (!batch.has(mask_key)) return at::ones({image.size(0)}, image.options().dtype(at::kBool));
  const at::Tensor& mask = batch.at(mask_key);
  if (mask.numel() != image.size(0)) refuse_shape(mask_key, fmt::format("({})", image.size(0)), mask);
  return mask.to(at::kBool).view({-1});
}

std::vector<std::string> present_cameras(const std::vector<std::string>& configured, const Batch& batch) {
  std::vector<std::string> present;
  std::copy_if(configured.begin(), configured.end(), std::back_inserter(present),
               [&batch](const std::string& key) { return batch.has(key); });
  if (!present.empty()) return present;
  std::vector<std::string> keys;
  for (const auto& entry : batch.tensors) keys.push_back(entry.first);
  throw MismatchError(Problem{.where = "batch",
                              .expected = fmt::format("at least one of the cameras {}", fmt::join(configured, ", ")),
                              .found = fmt::format("the keys {}", fmt::join(keys, ", ")),
                              .fix = "Name the dataset's cameras as the policy does (rename map)."});
}

at::Tensor fitted(const SmolVLAConfig& config, const std::string& key, const at::Tensor& image) {
  if (config.resize_images) return resize_with_padding(image, config.image_height, config.image_width);
  if (image.size(2) != config.image_height || image.size(3) != config.image_width) {
    refuse_shape(
        key,
        fmt::format("images of {} x {} (the configuration does not resize)", config.image_height, config.image_width),
        image);
  }
  return image;
}

at::Tensor pad_width(const at::Tensor& vectors, std::int64_t width, const std::string& key) {
  const std::int64_t missing = width - vectors.size(-1);
  if (missing < 0) refuse_shape(key, fmt::format("at most {} values a vector", width), vectors);
  return missing == 0 ? vectors : at::constant_pad_nd(vectors, {0, missing});
}

at::Tensor as_float_vector(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat); }

}  // namespace

at::Tensor resize_with_padding(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  const std::int64_t old_height = images.size(2);
  const std::int64_t old_width = images.size(3);
  if (old_height == height && old_width == width) return images;
  const double ratio = std::max(static_cast<double>(old_width) / static_cast<double>(width),
                                static_cast<double>(old_height) / static_cast<double>(height));
  const auto new_height = static_cast<std::int64_t>(static_cast<double>(old_height) / ratio);
  const auto new_width = static_cast<std::int64_t>(static_cast<double>(old_width) / ratio);
  if (new_height < 1 || new_width < 1) {
    throw MismatchError(Problem{.where = "image",
                                .expected = fmt::format("sides that fit into {} x {}", height, width),
                                .found = fmt::format("{} x {}", old_height, old_width)});
  }
  const at::Tensor resized = at::upsample_bilinear2d(images, {new_height, new_width}, /*align_corners=*/false);
  const std::int64_t left = std::max<std::int64_t>(0, width - new_width);
  const std::int64_t top = std::max<std::int64_t>(0, height - new_height);
  return at::constant_pad_nd(resized, {left, 0, top, 0});
}

CameraInputs camera_inputs(const SmolVLAConfig& config, const Batch& batch) {
  const std::vector<std::string> configured = config.cameras();
  const std::vector<std::string> present = present_cameras(configured, batch);
  std::vector<at::Tensor> images;
  std::vector<at::Tensor> masks;
  for (const std::string& key : present) {
    images.push_back(fitted(config, key, camera_image(key, batch)) * 2.0 - 1.0);
    masks.push_back(camera_mask(key, batch, images.back()));
    if (images.back().size(0) != images.front().size(0)) {
      refuse_shape(key, fmt::format("a batch of {} as {} has", images.front().size(0), present.front()), batch.at(key));
    }
  }
  const auto missing = static_cast<std::int64_t>(configured.size() - present.size());
  for (std::int64_t i = 0; i < std::min(missing, config.empty_cameras); ++i) {
    images.push_back(at::full_like(images.front(), -1.0));
    masks.push_back(at::zeros_like(masks.front()));
  }
  return {.pixels = at::stack(images, 1), .mask = at::stack(masks, 1)};
}

at::Tensor state_input(const SmolVLAConfig& config, const Batch& batch) {
  const std::string key = "observation.state";
  at::Tensor state = as_float_vector(batch.at(key));
  if (state.dim() == 3 && state.size(1) > 0) state = state.select(1, state.size(1) - 1);
  if (state.dim() != 2) refuse_shape(key, "vectors (batch, width)", batch.at(key));
  if (config.adapt_to_pi_aloha) {
    if (state.size(1) < 14) refuse_shape(key, "at least 14 values (adapt_to_pi_aloha)", state);
    state = aloha_state_to_pi(state);
  }
  return pad_width(state, config.max_state_dim, key);
}

at::Tensor action_target(const SmolVLAConfig& config, const Batch& batch) {
  const std::string key = "action";
  at::Tensor action = as_float_vector(batch.at(key));
  const bool usable = action.dim() == 3 && action.size(1) == config.chunk_size && action.size(2) == config.action_dim();
  if (!usable) {
    refuse_shape(key, fmt::format("chunks (batch, {}, {})", config.chunk_size, config.action_dim()), batch.at(key));
  }
  if (config.adapt_to_pi_aloha) action = aloha_actions_to_pi(action);
  return pad_width(action, config.max_action_dim, key);
}

at::Tensor aloha_state_to_pi(const at::Tensor& state) {
  return map_grippers(mirror_joints(state), linear_gripper_to_angle);
}

at::Tensor pi_actions_to_aloha(const at::Tensor& actions) {
  return map_grippers(mirror_joints(actions), [](const at::Tensor& gripper) {
    return normalise(unnormalise(gripper, kPiGripper), kPuppetGripperJoint);
  });
}

at::Tensor aloha_actions_to_pi(const at::Tensor& actions) {
  return map_grippers(mirror_joints(actions), [](const at::Tensor& gripper) {
    return normalise(unnormalise(gripper, kPuppetGripperJoint), kPiGripper);
  });
}

}  // namespace thaw::smolvla
