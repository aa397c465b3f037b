/// The bytes of a tensor as a file or a digest sees them: on the CPU, contiguous, little-endian.
#pragma once

#include <ATen/core/Tensor.h>

#include <bit>
#include <cstddef>
#include <span>

namespace thaw::detail {

static_assert(std::endian::native == std::endian::little, "thaw reads and writes little-endian payloads as they are");

/// `tensor` itself when it is packed already, else a copy. @throws UsageError when it is undefined, sparse or quantised
[[nodiscard]] at::Tensor packed_on_cpu(const at::Tensor& tensor);

/// Of a packed tensor; valid while it lives.
[[nodiscard]] inline std::span<const std::byte> bytes_of(const at::Tensor& packed) {
  return {static_cast<const std::byte*>(packed.const_data_ptr()), packed.nbytes()};
}

}  // namespace thaw::detail
