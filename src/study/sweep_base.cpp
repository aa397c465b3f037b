#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include "sweep_base_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/core/sha256.h"
#include "thaw/tensor/digest.h"

namespace thaw {

SweepBase::SweepBase(std::shared_ptr<torch::nn::Module> module, std::shared_ptr<const Policy> policy)
    : module_(std::move(module)), policy_(std::move(policy)), was_training_(module_->is_training()) {
  for (const auto& item : module_->named_parameters()) {
    const at::Tensor& tensor = item.value();
    parameters_[item.key()] = {
        .dtype = tensor.scalar_type(), .requires_grad = tensor.requires_grad(), .digest = tensor_digest(tensor)};
  }
  for (const auto& item : module_->named_buffers()) buffers_[item.key()] = tensor_digest(item.value());
}

SweepBase::~SweepBase() {
  for (auto& item : module_->named_parameters()) {
    item.value().mutable_grad().reset();
    item.value().set_requires_grad(parameters_.at(item.key()).requires_grad);
  }
  module_->train(was_training_);
}

FreezePlan SweepBase::with_digests(FreezePlan plan) const {
  for (PlannedParameter& parameter : plan.parameters) parameter.digest = parameters_.at(parameter.name).digest;
  return plan;
}

std::string SweepBase::digest() const {
  Sha256 sum;
  for (const auto& [name, original] : parameters_) sum.update(fmt::format("{} {}\n", name, original.digest));
  for (const auto& [name, digest] : buffers_) sum.update(fmt::format("{} {}\n", name, digest));
  return sum.hex();
}

bool SweepBase::can_read_again() const { return policy_ && !policy_->source().empty(); }

SweepBase::Loan::Loan(SweepBase& base, const FreezePlan& plan) : base_(base) {
  for (auto& item : base_.module_->named_parameters()) {
    at::Tensor& parameter = item.value();
    const bool trains = plan.trains(item.key());
    if (!trains && base_.can_read_again()) continue;
    kept_[item.key()] = parameter.detach();
    if (trains) parameter.set_data(parameter.detach().clone());
  }
  for (const auto& item : base_.module_->named_buffers()) buffers_[item.key()] = item.value().detach().clone();
}

SweepBase::Loan::~Loan() {
  try {
    put_back();
  } catch (const std::exception& error) {
    log_warning(std::string("The base could not be put back: ") + error.what());
  }
}

void SweepBase::Loan::put_back() {
  if (returned_) return;
  returned_ = true;
  const at::NoGradGuard no_grad;
  std::vector<std::string> cast;
  auto parameters = base_.module_->named_parameters();
  for (auto& item : parameters) {
    const auto kept = kept_.find(item.key());
    if (kept != kept_.end()) {
      item.value().set_data(kept->second);
    } else if (item.value().scalar_type() != base_.parameters_.at(item.key()).dtype) {
      cast.push_back(item.key());
    }
  }
  for (auto& item : base_.module_->named_buffers()) item.value().copy_(buffers_.at(item.key()));
  if (cast.empty()) return;
  for (auto& [name, tensor] : base_.policy_->read_again(cast)) {
    parameters[name].set_data(tensor.to(parameters[name].device(), base_.parameters_.at(name).dtype));
  }
}

void SweepBase::Loan::give_back() {
  put_back();
  std::vector<std::string> moved;
  for (const auto& item : base_.module_->named_parameters()) {
    if (tensor_digest(item.value()) != base_.parameters_.at(item.key()).digest) moved.push_back(item.key());
  }
  for (const auto& item : base_.module_->named_buffers()) {
    if (tensor_digest(item.value()) != base_.buffers_.at(item.key())) moved.push_back(item.key());
  }
  if (moved.empty()) return;
  throw CheckFailed(Problem{.where = fmt::format("{}", fmt::join(moved, ", ")),
                            .expected = "the base's content after a point of the sweep",
                            .found = "another",
                            .fix = "The next point would begin elsewhere: report this."});
}

}  // namespace thaw
