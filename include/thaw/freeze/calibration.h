/// How fast this machine does what a step is made of: a short measurement, and the time of a step worked out from it.
#pragma once

#include <ATen/core/Tensor.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/freeze/cost_model.h"
#include "thaw/freeze/memory_plan.h"
#include "thaw/freeze/plan.h"
#include "thaw/policy/layout.h"

namespace thaw {

/// A matrix product x Wᵀ: x (rows, in), W (out, in).
struct ProductShape {
  std::int64_t rows = 1;
  std::int64_t in = 1;
  std::int64_t out = 1;

  friend std::strong_ordering operator<=>(const ProductShape&, const ProductShape&) = default;
  [[nodiscard]] double flops() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  }
};

/// The products of a step with any of `cuts`: forward, and where the plan walks backward those of the input and weight
/// gradients.
[[nodiscard]] std::vector<ProductShape> step_products(const ModelLayout& layout, const FreezePlan& plan,
                                                      std::span<const PrefixCut> cuts, const StepShape& shape);

struct MachineRates {
  std::map<ProductShape, double> products;   ///< FLOP/s of each measured shape
  double seconds_per_output_byte = 0.0;      ///< of an elementwise operation that writes a new tensor
  double seconds_per_updated_element = 0.0;  ///< gradient norm, clipping and AdamW

  /// Of the shape when it was measured, else of the nearest in rows, in and out (by ratios). @throws UsageError when no
  /// product was measured
  [[nodiscard]] double product_rate(const ProductShape& shape) const;
  [[nodiscard]] Json to_json() const;
};

struct CalibrationOptions {
  double seconds = 2.0;  ///< about; every shape is run at least once after a first run that is not counted
  /// x Wᵀ as the policy multiplies; absent: at::linear. Strides are any.
  std::function<at::Tensor(const at::Tensor& x, const at::Tensor& weight)> product;
  at::ScalarType dtype = at::kFloat;  ///< of the operands
};

/// Weights are taken in turn from a pool larger than the caches, as in a step.
[[nodiscard]] MachineRates calibrate(std::span<const ProductShape> shapes, const CalibrationOptions& options = {});

/// Seconds of a step that waits for no data: products at their rates, attention at the rate of its stage, what lies
/// between them by the bytes it writes, and the update.
[[nodiscard]] double step_seconds(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut,
                                  const StepShape& shape, const MemoryOptions& memory, const MachineRates& rates);

}  // namespace thaw
