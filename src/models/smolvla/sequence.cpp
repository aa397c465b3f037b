#include "thaw/models/smolvla/sequence.h"

#include <ATen/ATen.h>

namespace thaw::smolvla {

at::Tensor row_mask(const at::Tensor& camera_mask, const at::Tensor& token_mask, std::int64_t image_tokens,
                    bool special_tokens) {
  if (!special_tokens) return models::row_mask(camera_mask, token_mask, image_tokens);
  const std::int64_t batch = camera_mask.size(0);
  const std::int64_t cameras = camera_mask.size(1);
  const auto valid = [&](std::int64_t rows) { return at::ones({batch, cameras, rows}, camera_mask.options()); };
  const at::Tensor images = camera_mask.unsqueeze(-1).expand({batch, cameras, image_tokens});
  return at::cat({at::cat({valid(2), images, valid(1)}, -1).reshape({batch, -1}), token_mask}, 1);
}

at::Tensor suffix_positions(const at::Tensor& rows, std::int64_t chunk) {
  return state_position(rows) + at::arange(1, chunk + 1, rows.options().dtype(at::kLong));
}

at::Tensor suffix_mask(const at::Tensor& rows, std::int64_t chunk) {
  const at::Tensor causal = at::ones({chunk, chunk}, rows.options()).tril();
  return at::cat({prefix_mask(rows).expand({-1, chunk, -1}), causal.expand({rows.size(0), chunk, chunk})}, -1);
}

at::Tensor vision_position_ids(std::int64_t rows, std::int64_t table_side, at::ScalarType dtype) {
  const double step = 1.0 / static_cast<double>(table_side);
  const at::Tensor boundaries = at::arange(step, 1.0, step, at::kFloat);
  const at::Tensor spacing = at::scalar_tensor(static_cast<double>(rows), at::kFloat).reciprocal();
  const at::Tensor coordinates = at::arange(rows, at::kFloat) * spacing;
  const at::Tensor buckets =
      at::bucketize(coordinates.clamp_max(1.0 - 1e-6).to(dtype).to(at::kFloat), boundaries, false, /*right=*/true);
  return (buckets.unsqueeze(1) * table_side + buckets.unsqueeze(0)).reshape({-1});
}

}  // namespace thaw::smolvla
