/// Which device to compute on, and what it can do natively.
#pragma once

#include <c10/core/Device.h>

#include <string_view>

namespace thaw {

/// "auto" (CUDA when a device answers, else CPU), "cpu", "cuda", "cuda:1".
/// @throws UsageError for another word, or for CUDA where no CUDA LibTorch or no device is found
[[nodiscard]] at::Device parse_device(std::string_view text);

/// Loads libtorch_cuda when it lies beside libtorch_cpu and returns whether a CUDA device answers.
[[nodiscard]] bool cuda_available();

/// Whether bfloat16 products run natively: CUDA, or a CPU with AVX512-BF16 or AMX-BF16. Elsewhere bf16 on a CPU is some
/// hundred times slower than float32.
[[nodiscard]] bool has_native_bf16(at::Device device);

}  // namespace thaw
