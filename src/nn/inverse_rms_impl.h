/// What both RMS norms divide by.
#pragma once

#include <ATen/Tensor.h>

namespace thaw::nn {

/// 1 / sqrt(mean(x²) + eps) over the last dimension. `wide` (..., D), float32 or wider; the result (..., 1)
[[nodiscard]] inline at::Tensor inverse_rms(const at::Tensor& wide, double eps) {
  return wide.square().mean(/*dim=*/-1, /*keepdim=*/true).add_(eps).rsqrt_();
}

}  // namespace thaw::nn
