/// Element types: their names, safetensors' ("F32", "BF16", "I64", …) and people's ("float32", "bf16"), and the wider
/// one to compute in.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string_view>

namespace thaw {

/// safetensors name, e.g. "BF16". @throws UsageError for a type safetensors has no name for (complex, quantised)
[[nodiscard]] std::string_view safetensors_dtype_name(at::ScalarType dtype);
/// The inverse; nullopt for an unknown name.
[[nodiscard]] std::optional<at::ScalarType> safetensors_dtype(std::string_view name);
/// "float32", "bfloat16", …
[[nodiscard]] std::string_view dtype_name(at::ScalarType dtype);

/// The type in which norms, rotations and softmax are computed for inputs of `dtype`: float32 where that is narrower.
[[nodiscard]] inline at::ScalarType at_least_float(at::ScalarType dtype) {
  return c10::promoteTypes(dtype, at::kFloat);
}

}  // namespace thaw
