#include "thaw/models/smolvla/inputs.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "../batch_inputs_impl.h"

namespace thaw::smolvla {
namespace {

at::Tensor camera_mask(const std::string& key, const Batch& batch, const at::Tensor& image) {
  const std::string mask_key = key + "_padding_mask";
  if (!batch.has(mask_key)) return at::ones({image.size(0)}, image.options().dtype(at::kBool));
  const at::Tensor& mask = batch.at(mask_key);
  if (mask.numel() != image.size(0)) models::refuse_shape(mask_key, fmt::format("({})", image.size(0)), mask);
  return mask.to(at::kBool).view({-1});
}

at::Tensor fitted(const SmolVLAConfig& config, const std::string& key, const at::Tensor& image) {
  if (config.resize_images) return resize_with_padding(image, config.image_height, config.image_width);
  if (image.size(2) != config.image_height || image.size(3) != config.image_width) {
    models::refuse_shape(
        key,
        fmt::format("images of {} x {} (the configuration does not resize)", config.image_height, config.image_width),
        image);
  }
  return image;
}

}  // namespace

at::Tensor resize_with_padding(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  const models::ImageSize old{.height = images.size(2), .width = images.size(3)};
  if (old.height == height && old.width == width) return images;
  const models::ImageSize fit = models::fitted_size(old, {.height = height, .width = width});
  const at::Tensor resized = at::upsample_bilinear2d(images, {fit.height, fit.width}, /*align_corners=*/false);
  const std::int64_t left = std::max<std::int64_t>(0, width - fit.width);
  const std::int64_t top = std::max<std::int64_t>(0, height - fit.height);
  return at::constant_pad_nd(resized, {left, 0, top, 0});
}

CameraInputs camera_inputs(const SmolVLAConfig& config, const Batch& batch) {
  return models::stack_cameras(
      config.cameras(), batch,
      {.fit = [&config](const std::string& key, const at::Tensor& image) { return fitted(config, key, image); },
       .mask = [&batch](const std::string& key, const at::Tensor& image) { return camera_mask(key, batch, image); },
       .most_filled = config.empty_cameras});
}

at::Tensor state_input(const SmolVLAConfig& config, const Batch& batch) {
  const std::string key = models::kStateKey;
  at::Tensor state = models::last_vector(key, batch);
  if (config.adapt_to_pi_aloha) {
    if (state.size(1) < kAlohaWidth) models::refuse_shape(key, "at least 14 values (adapt_to_pi_aloha)", state);
    state = aloha_state_to_pi(state);
  }
  return models::pad_width(state, config.max_state_dim, key);
}

at::Tensor action_target(const SmolVLAConfig& config, const Batch& batch) {
  at::Tensor action = models::action_chunks(batch, config.chunk_size, config.action_dim());
  if (config.adapt_to_pi_aloha) action = aloha_actions_to_pi(action);
  return models::pad_width(action, config.max_action_dim, models::kActionKey);
}

}  // namespace thaw::smolvla
