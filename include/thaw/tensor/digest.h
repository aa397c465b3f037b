/// Identity of a tensor by content.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace thaw {

/// SHA-256 over dtype, shape and the contiguous bytes (64 hex digits). Two tensors with equal digests are bitwise
/// equal; NaN payloads and the sign of zero count. Independent of device and strides.
[[nodiscard]] std::string tensor_digest(const at::Tensor& tensor);

}  // namespace thaw
