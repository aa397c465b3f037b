#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <limits>
#include <set>

#include "released_weights_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/tensor/digest.h"
#include "thaw/tensor/heap.h"

namespace thaw {
namespace {

/// Read again at a time, at least one tensor: little beside the weights, so that two copies of them are never there.
constexpr std::int64_t kElementsAtATime = std::int64_t{1} << 24;

/// `names` in their order, in groups of about kElementsAtATime.
std::vector<std::vector<std::string>> in_groups(const std::vector<std::string>& names, const ModelLayout& layout) {
  std::vector<std::vector<std::string>> groups;
  std::int64_t elements = 0;
  for (const std::string& name : names) {
    const std::int64_t more = layout.parameter(name).numel();
    if (groups.empty() || elements + more > kElementsAtATime) {
      groups.emplace_back();
      elements = 0;
    }
    groups.back().push_back(name);
    elements += more;
  }
  return groups;
}

}  // namespace

ReleasedWeights::~ReleasedWeights() {
  if (!return_at_end_) return;
  std::vector<std::string> names;
  for (const auto& [name, out] : out_) names.push_back(name);
  try {
    restore(names);
  } catch (const std::exception& error) {
    log_warning(std::string("The policy is left without the weights that training had no use for: ") + error.what());
  }
}

void ReleasedWeights::release(const std::vector<std::string>& names) {
  if (policy_->source().empty()) return;
  auto parameters = policy_->module()->named_parameters();
  for (const std::string& name : names) {
    at::Tensor& parameter = parameters[name];
    if (parameter.numel() < 2) continue;
    const Out out{.dtype = parameter.scalar_type(), .digest = tensor_digest(parameter.detach())};
    if (!out_.emplace(name, out).second) continue;
    const at::Tensor nothing = at::full({1}, std::numeric_limits<double>::quiet_NaN(), parameter.options());
    parameter.set_data(nothing.expand(parameter.sizes()));
  }
  release_free_memory();
}

void ReleasedWeights::restore(const std::vector<std::string>& names) {
  std::vector<std::string> missing;
  std::copy_if(names.begin(), names.end(), std::back_inserter(missing),
               [this](const std::string& name) { return out_.contains(name); });
  if (missing.empty()) return;
  release_free_memory();  // what steps have left free is not large enough for weights
  for (const std::vector<std::string>& group : in_groups(missing, policy_->layout())) restore_group(group);
}

void ReleasedWeights::restore_group(const std::vector<std::string>& names) {
  std::map<std::string, at::Tensor> tensors = policy_->read_again(names);
  auto parameters = policy_->module()->named_parameters();
  for (const std::string& name : names) {
    const Out& out = out_.at(name);
    at::Tensor& parameter = parameters[name];
    const at::Tensor tensor = tensors.extract(name).mapped().to(parameter.device(), out.dtype);
    if (tensor_digest(tensor) != out.digest) {
      throw MismatchError(Problem{.where = (policy_->source() / "model.safetensors").string() + ": " + name,
                                  .expected = "the weights the run began with",
                                  .found = "others",
                                  .fix = "Somebody changed the base while it was trained on; put it back."});
    }
    parameter.set_data(tensor);
    out_.erase(name);
  }
}

bool is_released(const at::Tensor& parameter) {
  return parameter.numel() > 1 && parameter.storage().nbytes() == parameter.dtype().itemsize();
}

std::vector<std::string> idle_parameters(const ModelLayout& layout, std::size_t cut) {
  std::set<std::string> used;
  for (std::size_t i = cut; i < layout.line.size(); ++i) {
    used.insert(layout.line[i].parameters.begin(), layout.line[i].parameters.end());
  }
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : layout.parameters) {
    if (!used.contains(parameter.name)) names.push_back(parameter.name);
  }
  return names;
}

}  // namespace thaw
