#include "bench_gemm.h"

#include <algorithm>
#include <map>

#include "thaw/freeze/calibration.h"
#include "thaw/nn/linear.h"

namespace thaw::cli {
namespace {

constexpr double kCalibrationSeconds = 1.0;

/// How often a product of each shape occurs.
using Products = std::map<ProductShape, std::int64_t>;

/// FLOP/s of all products one after the other.
double rate_of(const Products& products, const MachineRates& rates) {
  double flops = 0.0;
  double seconds = 0.0;
  for (const auto& [shape, count] : products) {
    flops += static_cast<double>(count) * shape.flops();
    seconds += static_cast<double>(count) * shape.flops() / rates.product_rate(shape);
  }
  return flops / seconds;
}

void measure(GemmShare& share, const Products& products) {
  std::vector<ProductShape> shapes;
  for (const auto& [shape, count] : products) shapes.push_back(shape);
  share.plain_rate = rate_of(products, calibrate(shapes, {.seconds = kCalibrationSeconds}));
  CalibrationOptions library{.seconds = kCalibrationSeconds};
  library.product = [](const at::Tensor& x, const at::Tensor& weight) {
    return nn::linear(x, {.weight = weight, .bias = {}});
  };
  share.library_rate = rate_of(products, calibrate(shapes, library));
}

/// The forward products of the stage's matrices, for `rows` rows.
std::vector<std::pair<ProductShape, std::string>> products_of(const ModelLayout& layout, const StageInfo& stage,
                                                              std::int64_t rows) {
  std::vector<std::pair<ProductShape, std::string>> products;
  for (const std::string& name : stage.parameters) {
    const ParameterInfo& parameter = layout.parameter(name);
    const std::vector<std::string>& groups = parameter.groups;
    const bool is_table = std::find(groups.begin(), groups.end(), "embeddings") != groups.end();
    if (parameter.shape.size() != 2 || is_table) continue;
    products.emplace_back(ProductShape{.rows = rows, .in = parameter.shape[1], .out = parameter.shape[0]}, name);
  }
  return products;
}

bool belongs_to(const ModelLayout& layout, const StageInfo& stage, const std::string& stack) {
  return !stage.parameters.empty() && layout.parameter(stage.parameters.front()).stack == stack;
}

}  // namespace

double GemmShare::share() const { return flops / seconds / std::max(plain_rate, library_rate); }

Json GemmShare::to_json() const {
  return Json{{"gflop", flops * 1e-9},
              {"seconds", seconds},
              {"gflops_per_s", flops / seconds * 1e-9},
              {"plain_gemm_gflops_per_s", plain_rate * 1e-9},
              {"library_gemm_gflops_per_s", library_rate * 1e-9},
              {"share", share()}};
}

std::optional<GemmShare> share_of_stack(const ModelLayout& layout, const std::vector<StageTime>& times,
                                        const std::string& stack, std::int64_t samples) {
  GemmShare share;
  Products products;
  for (std::size_t index = 0; index < times.size(); ++index) {
    const StageInfo& stage = layout.line[index];
    if (times[index].runs == 0 || !belongs_to(layout, stage, stack)) continue;
    share.flops += stage.flops * static_cast<double>(samples);
    share.seconds += times[index].seconds;
    for (const auto& [shape, name] : products_of(layout, stage, times[index].rows))
      products[shape] += times[index].runs;
  }
  if (products.empty()) return std::nullopt;
  measure(share, products);
  return share;
}

GemmShare share_of_step(const ModelLayout& layout, const FreezePlan& plan, const std::vector<StageTime>& times,
                        std::int64_t samples, double seconds) {
  GemmShare share{.seconds = seconds};
  Products products;
  for (std::size_t index = 0; index < times.size(); ++index) {
    const std::int64_t runs = times[index].runs;
    if (runs == 0) continue;
    const StagePlan& stage = plan.line[index];
    share.flops += (stage.forward_flops + stage.backward_flops) * static_cast<double>(samples);
    for (const auto& [shape, name] : products_of(layout, layout.line[index], times[index].rows)) {
      products[shape] += runs;
      if (stage.backward_walks) products[{.rows = shape.rows, .in = shape.out, .out = shape.in}] += runs;
      if (plan.trains(name)) products[{.rows = shape.out, .in = shape.rows, .out = shape.in}] += runs;
    }
  }
  measure(share, products);
  return share;
}

}  // namespace thaw::cli
