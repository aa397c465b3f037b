// How far weights moved from a base checkpoint.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <cmath>
#include <map>

#include "gradient_probe_impl.h"
#include "thaw/core/error.h"
#include "thaw/study/measure.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {
namespace {

at::Tensor base_tensor(const SafetensorsFile& base, const std::string& name, const at::Tensor& now) {
  const std::string where = fmt::format("{}: {}", base.path().string(), name);
  if (!base.contains(name)) {
    throw MismatchError(Problem{.where = where, .expected = "a tensor of this name", .found = "none"});
  }
  at::Tensor tensor = base.read(name);
  if (tensor.sizes() != now.sizes()) {
    throw MismatchError(Problem{.where = where,
                                .expected = fmt::format("shape ({})", fmt::join(now.sizes(), ", ")),
                                .found = fmt::format("({})", fmt::join(tensor.sizes(), ", "))});
  }
  return tensor.to(at::kFloat);
}

}  // namespace

void add_divergence(MeasureReport& report, const ModelLayout& layout, const torch::nn::Module& module,
                    const std::filesystem::path& base_folder) {
  const SafetensorsFile base(base_folder / "model.safetensors");
  const auto parameters = module.named_parameters();
  for (StackMeasures& stack : report.stacks) {
    std::vector<double> moved(static_cast<std::size_t>(stack.blocks), 0.0);
    std::vector<double> size(static_cast<std::size_t>(stack.blocks), 0.0);
    for (const ParameterInfo& info : layout.parameters) {
      if (info.stack != stack.name) continue;
      const at::Tensor now = parameters[info.name].detach().to(at::kCPU, at::kFloat);
      const at::Tensor before = base_tensor(base, info.name, now);
      moved.at(static_cast<std::size_t>(info.block)) += square_sum(now - before);
      size.at(static_cast<std::size_t>(info.block)) += square_sum(before);
    }
    stack.divergence.clear();
    for (std::size_t block = 0; block < moved.size(); ++block) {
      stack.divergence.push_back(std::sqrt(moved[block] / size[block]));
    }
  }
}

}  // namespace thaw
