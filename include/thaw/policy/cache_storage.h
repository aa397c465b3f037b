/// How cached prefixes are kept: what the planner counts and the cache does.
#pragma once

#include <string_view>

namespace thaw {

/// Of floating-point tensors. Integers and booleans are always kept as they are.
enum class CacheStorage {
  exact,  ///< the dtype they were computed in
  bf16,   ///< float32 and float64 rounded to bfloat16: relative error at most 2^-8, half the bytes of float32
  int8,   ///< symmetric, one float32 scale per row of the last dimension: error at most 1/254 of the row's largest
          ///< magnitude (beside the rounding of the dtype itself), a quarter of the bytes of float32
};

/// "exact" (or "fp32"), "bf16", "int8". @throws UsageError with the names there are
[[nodiscard]] CacheStorage parse_cache_storage(std::string_view name);
/// "exact", "bf16" or "int8"
[[nodiscard]] std::string_view cache_storage_name(CacheStorage storage);

}  // namespace thaw
