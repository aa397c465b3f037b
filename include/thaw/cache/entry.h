/// What a prefix cache keeps of one sample.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace thaw {

/// The live tensors of one sample at a cut of the line of stages, by their keys in PrefixState. Every tensor has a
/// leading batch dimension of 1: (1, …), any dtype safetensors has a name for.
struct CacheEntry {
  std::map<std::string, at::Tensor> tensors;

  /// Of all elements, in the dtypes they have here.
  [[nodiscard]] std::int64_t bytes() const;
};

}  // namespace thaw
