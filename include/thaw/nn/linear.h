/// Linear layers and norms as plain functions on parameter handles.
///
/// Parameters may have any mix of floating dtypes (a frozen weight in bfloat16 beside a trainable one in float32): the
/// input is cast to the weight's dtype before a product, as the reference does, and left to autocast where that is on.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "thaw/nn/parameter_tree.h"

namespace thaw::nn {

/// A low-rank update of a linear layer: LoRA, or DoRA with a magnitude (policy/adapters.h). Undefined without one.
struct LowRank {
  at::Tensor a;          ///< (rank, in)
  at::Tensor b;          ///< (out, rank)
  at::Tensor magnitude;  ///< (out) or undefined
  double scale = 1.0;

  [[nodiscard]] bool defined() const { return a.defined(); }
};

/// y = x Wᵀ + b, and what `low_rank` adds. weight (out, in); bias (out) or undefined.
struct Linear {
  at::Tensor weight;
  at::Tensor bias;
  LowRank low_rank;
};

/// What find_linear looks up beside the parameters: a layer's LowRank::scale, as a float64 scalar.
[[nodiscard]] std::string low_rank_scale_name(const std::string& prefix);

/// <prefix>.weight and, where there are such, <prefix>.bias and <prefix>.lora_A.weight with what belongs to it.
/// @throws UsageError when there is no such weight, or a part of the low-rank update is missing
[[nodiscard]] Linear find_linear(const ParameterMap& parameters, const std::string& prefix);

/// x (..., in) any floating dtype -> (..., out) in the weight's dtype (autocast's under autocast). A low-rank update is
/// computed in the dtype of its own tensors, as PEFT does.
[[nodiscard]] at::Tensor linear(const at::Tensor& x, const Linear& layer);

/// gelu(linear(x)), the tanh approximation; silu(linear(x)). One pass over the output where nothing is kept for a
/// backward pass and the library can.
[[nodiscard]] at::Tensor linear_gelu(const at::Tensor& x, const Linear& layer);
[[nodiscard]] at::Tensor linear_silu(const at::Tensor& x, const Linear& layer);

/// linear(x) + residual in the dtype of linear(x), as the reference's in-place additions make it.
[[nodiscard]] at::Tensor linear_add(const at::Tensor& x, const Linear& layer, const at::Tensor& residual);

/// Whether autocast is on for the device of `x`.
[[nodiscard]] bool autocasts(const at::Tensor& x);

/// `x` in the dtype of `parameter`, or as it is under autocast, which casts by itself.
[[nodiscard]] at::Tensor cast_for(const at::Tensor& parameter, const at::Tensor& x);

/// weight (D); Llama's root-mean-square norm (transformers LlamaRMSNorm).
struct RmsNorm {
  at::Tensor weight;
  double eps = 1e-5;
};

/// weight · round(x / rms(x)), computed in float32 (float64 for float64) and rounded to the dtype of `x` *before* the
/// weight multiplies. x (..., D) -> (..., D) in the promotion of x's and the weight's dtype.
[[nodiscard]] at::Tensor rms_norm(const at::Tensor& x, const RmsNorm& norm);

/// weight, bias (D).
struct LayerNorm {
  at::Tensor weight;
  at::Tensor bias;
  double eps = 1e-6;
};

[[nodiscard]] LayerNorm find_layer_norm(const ParameterMap& parameters, const std::string& prefix, double eps);
/// x (..., D) -> (..., D) in the weight's dtype.
[[nodiscard]] at::Tensor layer_norm(const at::Tensor& x, const LayerNorm& norm);

enum class GateActivation { silu, gelu_tanh };

/// down(activation(gate(x)) · up(x)), no biases (Llama: silu, Gemma: gelu_tanh).
struct GatedMlp {
  Linear gate;
  Linear up;
  Linear down;
  GateActivation activation = GateActivation::silu;
};

[[nodiscard]] GatedMlp find_gated_mlp(const ParameterMap& parameters, const std::string& prefix);
[[nodiscard]] at::Tensor gated_mlp(const at::Tensor& x, const GatedMlp& mlp);

}  // namespace thaw::nn
