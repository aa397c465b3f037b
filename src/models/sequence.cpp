#include "thaw/models/sequence.h"

#include <ATen/ATen.h>

#include <cmath>

namespace thaw::models {

at::Tensor row_mask(const at::Tensor& camera_mask, const at::Tensor& token_mask, std::int64_t image_tokens) {
  const std::int64_t batch = camera_mask.size(0);
  const at::Tensor images = camera_mask.unsqueeze(-1).expand({batch, camera_mask.size(1), image_tokens});
  return at::cat({images.reshape({batch, -1}), token_mask}, 1);
}

at::Tensor row_positions(const at::Tensor& rows) { return rows.cumsum(1) - 1; }

at::Tensor state_position(const at::Tensor& rows) { return rows.sum(1, /*keepdim=*/true); }

at::Tensor prefix_mask(const at::Tensor& rows) {
  return at::cat({rows, at::ones({rows.size(0), 1}, rows.options())}, 1).unsqueeze(1);
}

at::Tensor fold_draws(const at::Tensor& mask, std::int64_t draws) {
  if (draws == 1) return mask;
  const std::int64_t batch = mask.size(0);
  const std::int64_t chunk = mask.size(1);
  const std::int64_t prefix = mask.size(2) - chunk;
  const at::Tensor own = at::eye(draws, mask.options()).view({1, draws, 1, draws, 1});
  const at::Tensor each = mask.narrow(2, prefix, chunk).reshape({batch, 1, chunk, 1, chunk});
  const at::Tensor suffix = own.logical_and(each).view({batch, draws * chunk, draws * chunk});
  return at::cat({mask.narrow(2, 0, prefix).repeat({1, draws, 1}), suffix}, 2);
}

at::Tensor time_embedding(const at::Tensor& time, std::int64_t width, double min_period, double max_period) {
  const at::Tensor fraction = at::linspace(0.0, 1.0, width / 2, time.options().dtype(at::kDouble));
  const at::Tensor period = at::pow(max_period / min_period, fraction) * min_period;
  const at::Tensor frequency = period.reciprocal() * 2.0 * M_PI;
  const at::Tensor angle = time.to(at::kDouble).unsqueeze(1) * frequency.unsqueeze(0);
  return at::cat({angle.sin(), angle.cos()}, 1);
}

}  // namespace thaw::models
