/// The one comparison of tensors: NaN-aware, and it names the worst element.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace thaw {

/// |actual − expected| ≤ absolute + relative · |expected| + relative_to_max · max|expected|, element by element.
struct Bound {
  double absolute = 0.0;
  double relative = 0.0;
  double relative_to_max = 0.0;
};

/// A bound for a sum of `terms` products in `dtype`, relative to the largest expected value: rounding errors that add
/// up like a random walk, 4 ulp · sqrt(terms). Sixteen-bit types accumulate in float32 and are rounded once, to 2 ulp.
[[nodiscard]] Bound reduction_bound(at::ScalarType dtype, std::int64_t terms);

struct Comparison {
  bool equal = false;  ///< every element within the bound
  double worst = 0.0;  ///< largest difference / allowed difference; inf when a NaN or Inf does not match
  double worst_difference = 0.0;
  std::vector<std::int64_t> worst_index;
  std::string message;  ///< empty when equal; else shapes, worst index, both values, bound
  explicit operator bool() const noexcept { return equal; }
};

/// NaN equals only NaN, an infinity only the same infinity. A different shape or dtype never compares equal.
[[nodiscard]] Comparison compare_tensors(const at::Tensor& actual, const at::Tensor& expected, Bound bound = {});

/// Same shape, dtype and bits (NaN payload and sign of zero included).
[[nodiscard]] bool bitwise_equal(const at::Tensor& a, const at::Tensor& b);

}  // namespace thaw
