/// Products with plain float32 weights on the CPU through oneDNN, which multiplies the shapes of these models about a
/// third faster than the BLAS behind at::linear and takes an activation or a residual into the product.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

namespace thaw::nn::onednn {

/// What is applied to the product while it is in the cache.
enum class Activation { none, gelu_tanh, silu };

/// Whether linear() and linear_add() take these operands: float32 on the CPU, not empty, oneDNN switched on.
[[nodiscard]] bool takes(const at::Tensor& x, const at::Tensor& weight);

/// activation(x Wᵀ + b). x (..., in), weight (out, in) of any strides, bias (out) or undefined -> (..., out). No graph.
[[nodiscard]] at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                Activation activation = Activation::none);

/// x Wᵀ + b + residual. residual (..., out). No graph.
[[nodiscard]] at::Tensor linear_add(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                    const at::Tensor& residual);

}  // namespace thaw::nn::onednn
