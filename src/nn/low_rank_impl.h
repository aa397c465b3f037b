/// What a low-rank update adds to a linear layer's product.
#pragma once

#include "thaw/nn/linear.h"

namespace thaw::nn {

/// The update of the layer `prefix`; undefined when it has none. @throws UsageError when a part of it is missing
[[nodiscard]] LowRank find_low_rank(const ParameterMap& parameters, const std::string& prefix);

/// `product` = x Wᵀ + b -> the layer's output, in the dtype of `product`. x (..., in); layer.low_rank is defined.
/// (PEFT: lora.layer.Linear.forward, lora.dora.DoraLinearLayer.forward, without dropout)
[[nodiscard]] at::Tensor with_low_rank(const at::Tensor& x, const Linear& layer, const at::Tensor& product);

}  // namespace thaw::nn
