#include "thaw/freeze/calibration.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>
#include <unordered_map>

#include "thaw/core/error.h"

namespace thaw {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kPoolElements = std::int64_t{16} << 20;  // 64 MiB of float32: larger than last-level caches
constexpr std::int64_t kElementwise = std::int64_t{2} << 20;
constexpr std::int64_t kUpdated = std::int64_t{4} << 20;
constexpr int kMostRuns = 50;

/// Median time of a run; one before is not counted. Stops at `budget` seconds or kMostRuns.
double median_seconds(double budget, const std::function<void()>& run) {
  run();
  std::vector<double> times;
  double spent = 0;
  while (times.empty() || (spent < budget && static_cast<int>(times.size()) < kMostRuns)) {
    const Clock::time_point begin = Clock::now();
    run();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    spent += times.back();
  }
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

double product_rate_of(const ProductShape& shape, const CalibrationOptions& options, const at::Tensor& pool,
                       double budget) {
  const at::Tensor x = at::ones({shape.rows, shape.in}, options.dtype);
  const std::int64_t size = shape.in * shape.out;
  const std::int64_t weights = std::max<std::int64_t>(1, pool.numel() / size);
  const at::Tensor own = size > pool.numel() ? at::ones({size}, options.dtype) : pool;
  std::int64_t next = 0;
  const double seconds = median_seconds(budget, [&] {
    const at::Tensor weight = own.narrow(0, next * size, size).view({shape.out, shape.in});
    next = (next + 1) % weights;
    options.product ? options.product(x, weight) : at::linear(x, weight);
  });
  return shape.flops() / seconds;
}

double elementwise_rate(double budget) {
  const at::Tensor a = at::ones({kElementwise});
  const at::Tensor b = at::ones({kElementwise});
  at::Tensor out;
  const double seconds = median_seconds(budget, [&] { out = a + b; });
  return seconds / static_cast<double>(out.nbytes());
}

double update_rate(double budget) {
  const at::Tensor weight = at::ones({kUpdated});
  const at::Tensor gradient = at::ones({kUpdated});
  const at::Tensor first = at::zeros({kUpdated});
  const at::Tensor second = at::zeros({kUpdated});
  const at::Tensor step = at::ones({});
  std::vector<at::Tensor> gradients{gradient};
  const at::Tensor factor = at::ones({});
  const double seconds = median_seconds(budget, [&] {
    static_cast<void>(at::_foreach_norm(gradients, 2));
    at::_foreach_mul_(gradients, factor);
    at::_fused_adamw_({weight}, gradients, {first}, {second}, {}, {step}, /*lr=*/1e-4, /*beta1=*/0.9, /*beta2=*/0.95,
                      /*weight_decay=*/0.0, /*eps=*/1e-8, /*amsgrad=*/false, /*maximize=*/false);
  });
  return seconds / static_cast<double>(kUpdated);
}

/// What the products of one stage are.
struct StageProducts {
  std::int64_t rows = 0;  ///< of one call
  std::vector<const PlannedParameter*> matrices;
};

class Products {
 public:
  Products(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut, const StepShape& shape)
      : layout_(layout), shape_(shape), first_draw_(first_draw_stage(layout)) {
    if (cut.stage == 0) chunked_ = std::min(plan.boundary, first_draw_);
    for (const PlannedParameter& parameter : plan.parameters) parameters_.emplace(parameter.name, &parameter);
  }

  /// Rows are worked out from the stage's operations, all of which are taken for products: attention makes them some
  /// more than they are.
  [[nodiscard]] StageProducts of(std::size_t i) const {
    const StageInfo& stage = layout_.line[i];
    StageProducts products;
    if (stage.flops <= 0) return products;
    double elements = 0;
    for (const std::string& name : stage.parameters) {
      const PlannedParameter* parameter = parameters_.at(name);
      if (parameter->shape.size() < 2) continue;
      products.matrices.push_back(parameter);
      elements += static_cast<double>(parameter->numel());
    }
    if (products.matrices.empty()) return products;
    const double samples =
        static_cast<double>(i < chunked_ ? std::min(shape_.batch_size, shape_.prefix_batch) : shape_.batch_size);
    const double draws = i >= first_draw_ ? static_cast<double>(shape_.draws) : 1.0;
    products.rows = std::max<std::int64_t>(1, std::llround(samples * draws * stage.flops / (2.0 * elements)));
    return products;
  }

  [[nodiscard]] static ProductShape forward(const PlannedParameter& matrix, std::int64_t rows) {
    const std::int64_t out = matrix.shape.front();
    return {.rows = rows, .in = matrix.numel() / std::max<std::int64_t>(1, out), .out = out};
  }
  [[nodiscard]] static ProductShape input_gradient(const ProductShape& forward) {
    return {.rows = forward.rows, .in = forward.out, .out = forward.in};
  }
  [[nodiscard]] static ProductShape weight_gradient(const ProductShape& forward) {
    return {.rows = forward.out, .in = forward.rows, .out = forward.in};
  }
  [[nodiscard]] static bool trains(const PlannedParameter& parameter) {
    return parameter.parameter_class == ParameterClass::trainable;
  }

 private:
  const ModelLayout& layout_;
  const StepShape& shape_;
  std::size_t first_draw_;
  std::size_t chunked_ = 0;  ///< stages before it take prefix_batch samples at a time
  std::unordered_map<std::string, const PlannedParameter*> parameters_;
};

double distance(const ProductShape& a, const ProductShape& b) {
  const auto apart = [](std::int64_t x, std::int64_t y) {
    return std::abs(std::log(static_cast<double>(x) / static_cast<double>(y)));
  };
  return apart(a.rows, b.rows) + apart(a.in, b.in) + apart(a.out, b.out);
}

/// FLOP/s of a set of products done one after the other.
class Rate {
 public:
  explicit Rate(const MachineRates& rates) : rates_(rates) {}
  void add(const ProductShape& shape) {
    flops_ += shape.flops();
    seconds_ += shape.flops() / rates_.product_rate(shape);
  }
  /// Seconds for `flops`, at the rate of what was added.
  [[nodiscard]] double seconds(double flops) const { return flops_ > 0 ? flops * seconds_ / flops_ : 0.0; }

 private:
  const MachineRates& rates_;
  double flops_ = 0;
  double seconds_ = 0;
};

}  // namespace

std::vector<ProductShape> step_products(const ModelLayout& layout, const FreezePlan& plan,
                                        std::span<const PrefixCut> cuts, const StepShape& shape) {
  shape.validate();
  std::set<ProductShape> shapes;
  for (const PrefixCut& cut : cuts) {
    const Products products(layout, plan, cut, shape);
    for (std::size_t i = cut.stage; i < layout.line.size(); ++i) {
      const StageProducts stage = products.of(i);
      for (const PlannedParameter* matrix : stage.matrices) {
        const ProductShape forward = Products::forward(*matrix, stage.rows);
        shapes.insert(forward);
        if (!plan.line[i].backward_walks) continue;
        shapes.insert(Products::input_gradient(forward));
        if (Products::trains(*matrix)) shapes.insert(Products::weight_gradient(forward));
      }
    }
  }
  return {shapes.begin(), shapes.end()};
}

double MachineRates::product_rate(const ProductShape& shape) const {
  if (const auto found = products.find(shape); found != products.end()) return found->second;
  if (products.empty()) {
    throw UsageError(Problem{.where = "MachineRates", .expected = "at least one measured product", .found = "none"});
  }
  const auto nearest = std::min_element(products.begin(), products.end(), [&shape](const auto& a, const auto& b) {
    return distance(a.first, shape) < distance(b.first, shape);
  });
  return nearest->second;
}

Json MachineRates::to_json() const {
  Json json{{"seconds_per_output_byte", seconds_per_output_byte},
            {"seconds_per_updated_element", seconds_per_updated_element},
            {"products", Json::array()}};
  for (const auto& [shape, rate] : products) {
    json["products"].push_back(
        Json{{"rows", shape.rows}, {"in", shape.in}, {"out", shape.out}, {"flops_per_second", rate}});
  }
  return json;
}

MachineRates calibrate(std::span<const ProductShape> shapes, const CalibrationOptions& options) {
  const at::NoGradGuard no_grad;
  const double budget = options.seconds / static_cast<double>(shapes.size() + 2);
  MachineRates rates;
  rates.seconds_per_output_byte = elementwise_rate(budget);
  rates.seconds_per_updated_element = update_rate(budget);
  const at::Tensor pool = at::ones({kPoolElements}, options.dtype);
  for (const ProductShape& shape : shapes) rates.products[shape] = product_rate_of(shape, options, pool, budget);
  return rates;
}

double step_seconds(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut, const StepShape& shape,
                    const MemoryOptions& memory, const MachineRates& rates) {
  // Of what lives at once inside a stage, written once forward and once as a gradient.
  constexpr double kForwardWrites = 1.0;
  constexpr double kBackwardWrites = 1.0;
  const StepCost cost = step_cost(layout, plan, cut, shape);
  const Products products(layout, plan, cut, shape);
  const double samples = static_cast<double>(shape.batch_size * shape.accumulation);
  double seconds = rates.seconds_per_updated_element * static_cast<double>(cost.optimizer_elements);
  if (memory.ema) {
    seconds += rates.seconds_per_output_byte * sizeof(float) * static_cast<double>(cost.optimizer_elements);
  }
  for (std::size_t i = cut.stage; i < layout.line.size(); ++i) {
    const StageProducts stage = products.of(i);
    Rate forward(rates);
    Rate backward(rates);
    for (const PlannedParameter* matrix : stage.matrices) {
      const ProductShape product = Products::forward(*matrix, stage.rows);
      forward.add(product);
      backward.add(Products::input_gradient(product));
      if (Products::trains(*matrix)) backward.add(Products::weight_gradient(product));
    }
    const double written = samples * layout.line[i].bytes.workspace.at(shape.draws);
    const bool walks = plan.line[i].backward_walks;
    seconds += forward.seconds(cost.stages[i].forward_flops) + backward.seconds(cost.stages[i].backward_flops) +
               rates.seconds_per_output_byte * written * (kForwardWrites + (walks ? kBackwardWrites : 0.0));
  }
  return seconds;
}

}  // namespace thaw
