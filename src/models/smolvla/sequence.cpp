#include "thaw/models/smolvla/sequence.h"

#include <ATen/ATen.h>

#include <cmath>
#include <vector>

namespace thaw::smolvla {

at::Tensor row_mask(const at::Tensor& camera_mask, const at::Tensor& token_mask, std::int64_t image_tokens,
                    bool special_tokens) {
  const std::int64_t batch = camera_mask.size(0);
  const std::int64_t cameras = camera_mask.size(1);
  at::Tensor images = camera_mask.unsqueeze(-1).expand({batch, cameras, image_tokens});
  if (special_tokens) {
    const auto valid = [&](std::int64_t rows) { return at::ones({batch, cameras, rows}, camera_mask.options()); };
    images = at::cat({valid(2), images, valid(1)}, -1);
  }
  return at::cat({images.reshape({batch, -1}), token_mask}, 1);
}

at::Tensor row_positions(const at::Tensor& rows) { return rows.cumsum(1) - 1; }

at::Tensor state_position(const at::Tensor& rows) { return rows.sum(1, /*keepdim=*/true); }

at::Tensor suffix_positions(const at::Tensor& rows, std::int64_t chunk) {
  return state_position(rows) + at::arange(1, chunk + 1, rows.options().dtype(at::kLong));
}

at::Tensor prefix_mask(const at::Tensor& rows) {
  return at::cat({rows, at::ones({rows.size(0), 1}, rows.options())}, 1).unsqueeze(1);
}

at::Tensor suffix_mask(const at::Tensor& rows, std::int64_t chunk) {
  const at::Tensor causal = at::ones({chunk, chunk}, rows.options()).tril();
  return at::cat({prefix_mask(rows).expand({-1, chunk, -1}), causal.expand({rows.size(0), chunk, chunk})}, -1);
}

at::Tensor fold_draws(const at::Tensor& suffix_mask, std::int64_t draws) {
  if (draws == 1) return suffix_mask;
  const std::int64_t batch = suffix_mask.size(0);
  const std::int64_t chunk = suffix_mask.size(1);
  const std::int64_t prefix = suffix_mask.size(2) - chunk;
  const at::Tensor own = at::eye(draws, suffix_mask.options()).view({1, draws, 1, draws, 1});
  const at::Tensor causal = suffix_mask.narrow(2, prefix, chunk).view({batch, 1, chunk, 1, chunk});
  const at::Tensor suffix = own.logical_and(causal).view({batch, draws * chunk, draws * chunk});
  return at::cat({suffix_mask.narrow(2, 0, prefix).repeat({1, draws, 1}), suffix}, 2);
}

at::Tensor time_embedding(const at::Tensor& time, std::int64_t width, double min_period, double max_period) {
  const at::Tensor fraction = at::linspace(0.0, 1.0, width / 2, time.options().dtype(at::kDouble));
  const at::Tensor period = at::pow(max_period / min_period, fraction) * min_period;
  const at::Tensor frequency = period.reciprocal() * 2.0 * M_PI;
  const at::Tensor angle = time.to(at::kDouble).unsqueeze(1) * frequency.unsqueeze(0);
  return at::cat({angle.sin(), angle.cos()}, 1);
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
