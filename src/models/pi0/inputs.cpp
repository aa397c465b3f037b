#include "thaw/models/pi0/inputs.h"

#include <ATen/ATen.h>

#include <limits>

#include "../batch_inputs_impl.h"
#include "thaw/models/aloha.h"

namespace thaw::pi0 {

at::Tensor resize_centred(const at::Tensor& images, std::int64_t side) {
  const models::ImageSize old{.height = images.size(2), .width = images.size(3)};
  if (old.height == side && old.width == side) return images;
  const models::ImageSize fit = models::fitted_size(old, {.height = side, .width = side});
  const at::Tensor resized =
      at::upsample_bilinear2d(images, {fit.height, fit.width}, /*align_corners=*/false).clamp_(0.0, 1.0);
  const std::int64_t above = (side - fit.height) / 2;
  const std::int64_t before = (side - fit.width) / 2;
  return at::constant_pad_nd(resized, {before, side - fit.width - before, above, side - fit.height - above});
}

CameraInputs camera_inputs(const Pi0Config& config, const Batch& batch) {
  return models::stack_cameras(
      config.cameras(), batch,
      {.fit = [&config](const std::string&,
                        const at::Tensor& image) { return resize_centred(image, config.image_resolution); },
       .mask = [](const std::string&,
                  const at::Tensor& image) { return at::ones({image.size(0)}, image.options().dtype(at::kBool)); },
       .most_filled = std::numeric_limits<std::int64_t>::max()});
}

at::Tensor state_input(const Pi0Config& config, const Batch& batch) {
  at::Tensor state = models::last_vector(models::kStateKey, batch);
  if (config.adapt_to_pi_aloha) {
    if (state.size(1) < kAlohaWidth) {
      models::refuse_shape(models::kStateKey, "at least 14 values (adapt_to_pi_aloha)", state);
    }
    state = aloha_state_to_pi(state);
  }
  return models::pad_width(state, config.max_state_dim, models::kStateKey);
}

at::Tensor action_target(const Pi0Config& config, const Batch& batch) {
  at::Tensor action = models::action_chunks(batch, config.chunk_size, config.action_dim());
  if (config.adapt_to_pi_aloha) action = aloha_actions_to_pi(action);
  return models::pad_width(action, config.max_action_dim, models::kActionKey);
}

}  // namespace thaw::pi0
