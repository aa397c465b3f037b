/// The two gradients of y = x Wᵀ, for autograd functions that multiply through oneDNN.
#pragma once

#include <ATen/core/Tensor.h>

#include "onednn_impl.h"

namespace thaw::nn {

/// (..., D) -> (rows, D)
[[nodiscard]] inline at::Tensor as_rows(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

/// gradient (..., out), weight (out, in) -> (..., in)
[[nodiscard]] inline at::Tensor gradient_of_input(const at::Tensor& gradient, const at::Tensor& weight) {
  return onednn::linear(gradient, weight.t(), {});
}

/// gradient (..., out), x (..., in) -> (out, in)
[[nodiscard]] inline at::Tensor gradient_of_weight(const at::Tensor& gradient, const at::Tensor& x) {
  return onednn::linear(as_rows(gradient).t(), as_rows(x).t(), {});
}

}  // namespace thaw::nn
