#include "thaw/models/pi0/sequence.h"

#include <ATen/ATen.h>

namespace thaw::pi0 {

at::Tensor suffix_positions(const at::Tensor& rows, std::int64_t state_rows, std::int64_t chunk) {
  const at::Tensor steps = at::arange(state_rows, state_rows + chunk, rows.options().dtype(at::kLong));
  return models::state_position(rows) + steps;
}

at::Tensor suffix_mask(const at::Tensor& rows, std::int64_t state_rows, std::int64_t chunk) {
  const std::int64_t batch = rows.size(0);
  const at::Tensor suffix = at::ones({batch, state_rows + chunk}, rows.options());
  return at::cat({rows, suffix}, 1).unsqueeze(1).expand({batch, chunk, -1}).contiguous();
}

}  // namespace thaw::pi0
