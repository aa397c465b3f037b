/// Low-rank adapters on a model's linear layers: LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732) and DoRA
/// (arXiv 2402.09353), as PEFT builds them. They are parameters of the model like any other, so that plans, heads,
/// checkpoints and proofs treat them as they treat the rest.
///
/// A linear layer with W (out, in) becomes y = x Wᵀ + b + scale · (x Aᵀ) Bᵀ with A (rank, in), B (out, rank). With a
/// magnitude m (out), W' = W + scale · B A is divided by the norms of its rows (held constant in backward) and
/// multiplied by m.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/policy/layout.h"
#include "thaw/tensor/safetensors.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// Full names of an adapter's parameters.
[[nodiscard]] std::string lora_a_name(const Adapter& adapter);          ///< <linear>.lora_A.weight
[[nodiscard]] std::string lora_b_name(const Adapter& adapter);          ///< <linear>.lora_B.weight
[[nodiscard]] std::string lora_magnitude_name(const Adapter& adapter);  ///< <linear>.lora_magnitude_vector

/// Whether a parameter of this name belongs to an adapter.
[[nodiscard]] bool is_adapter_parameter(std::string_view name);

/// Linear layers that may have an adapter: `<name>.weight` is a matrix that some stage uses and whose product is read,
/// and no table of embeddings.
[[nodiscard]] std::vector<std::string> adaptable_linears(const ModelLayout& layout);

/// The layout with the adapters' parameters (float32, group "adapters") behind those of their layers, wherever these
/// are used; operations and bytes grow by what the adapters need.
/// @throws UsageError for a layer that cannot have one (nearest names), one that has one already, a rank that is not
/// in 1 .. min(in, out), or an alpha that is not positive
[[nodiscard]] ModelLayout with_adapters(ModelLayout layout, std::span<const Adapter> adapters);

/// The tensors of with_adapters(layout).parameters, in that order: those of `module`, not copied, and fresh adapters
/// that change nothing yet: A uniform in ±1 / sqrt(in) (PyTorch's linear layers), B zero, m the norms of W's rows.
/// A is a function of (seed, name).
[[nodiscard]] std::vector<NamedTensor> adapted_weights(const ModelLayout& adapted, const torch::nn::Module& module,
                                                       std::uint64_t seed);

/// What an adapter's tensors make of its layer's weight, in the weight's dtype; computed in float32 or wider.
/// `tensors` holds the adapter's parameters by full name. @throws MismatchError when one is missing or misshapen
[[nodiscard]] at::Tensor merged_weight(const at::Tensor& weight, const Adapter& adapter,
                                       const std::map<std::string, at::Tensor>& tensors);

}  // namespace thaw
