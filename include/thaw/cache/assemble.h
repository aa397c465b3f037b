/// From the entries of single samples to the tensors of a batch and back.
///
/// Legend: B batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "thaw/cache/entry.h"

namespace thaw {

/// B entries of (1, …) become tensors of (B, …), in their order. Where lengths differ in one dimension beside the first
/// (texts of several lengths), the shorter ones are padded at its end with zeros or false to the longest of the batch.
/// @throws UsageError without entries; MismatchError naming the key and both entries when they differ in keys, dtypes,
/// ranks, or in more than one dimension, or have no leading 1
[[nodiscard]] std::map<std::string, at::Tensor> assemble(std::span<const CacheEntry> entries);

/// The inverse, padding included: B entries of tensors that are contiguous, on the CPU, without autograd history, and
/// share memory with nothing. @throws MismatchError when the tensors are of several B, or of rank 0
[[nodiscard]] std::vector<CacheEntry> split(const std::map<std::string, at::Tensor>& tensors);

}  // namespace thaw
