#include "released_weights_impl.h"

#include <ATen/ATen.h>
#include <malloc.h>
#include <torch/nn/module.h>

#include <exception>
#include <set>

#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/tensor/digest.h"

namespace thaw {

ReleasedWeights::~ReleasedWeights() {
  try {
    restore();
  } catch (const std::exception& error) {
    log_warning(std::string("The policy is left without the weights that its cache spared: ") + error.what());
  }
}

void ReleasedWeights::release(const std::vector<std::string>& names) {
  if (any() || policy_->source().empty()) return;
  auto parameters = policy_->module()->named_parameters();
  for (const std::string& name : names) {
    at::Tensor& parameter = parameters[name];
    out_.push_back({.name = name, .dtype = parameter.scalar_type(), .digest = tensor_digest(parameter.detach())});
    parameter.set_data(at::empty({0}, parameter.options()));
  }
  malloc_trim(0);
}

void ReleasedWeights::restore() {
  if (!any()) return;
  std::vector<std::string> names;
  for (const Out& out : out_) names.push_back(out.name);
  std::map<std::string, at::Tensor> tensors = policy_->read_again(names);
  auto parameters = policy_->module()->named_parameters();
  for (const Out& out : out_) {
    at::Tensor& parameter = parameters[out.name];
    const at::Tensor tensor = tensors.at(out.name).to(parameter.device(), out.dtype);
    if (tensor_digest(tensor) != out.digest) {
      throw MismatchError(Problem{.where = (policy_->source() / "model.safetensors").string() + ": " + out.name,
                                  .expected = "the weights the run began with",
                                  .found = "others",
                                  .fix = "Somebody changed the base while it was trained on; put it back."});
    }
    parameter.set_data(tensor);
  }
  out_.clear();
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
