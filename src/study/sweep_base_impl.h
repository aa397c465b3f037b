// The weights that all points of a sweep begin with, and how they come back after each.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "thaw/freeze/plan.h"
#include "thaw/policy/policy.h"

namespace thaw {

class SweepBase {
 public:
  /// `policy`: where weights can be read again that a shorter type took the place of; may be null.
  SweepBase(std::shared_ptr<torch::nn::Module> module, std::shared_ptr<const Policy> policy);
  /// Puts back what apply_freeze changed: requires_grad and train mode.
  ~SweepBase();
  SweepBase(const SweepBase&) = delete;
  SweepBase& operator=(const SweepBase&) = delete;

  /// `plan` with the digests of the base.
  [[nodiscard]] FreezePlan with_digests(FreezePlan plan) const;
  /// Over all of the base.
  [[nodiscard]] std::string digest() const;

  /// While it lives, what `plan` trains is a copy; then the base is there again.
  class Loan {
   public:
    Loan(SweepBase& base, const FreezePlan& plan);
    /// @throws CheckFailed naming what is not as it was
    void give_back();
    ~Loan();
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

   private:
    void put_back();
    SweepBase& base_;
    std::map<std::string, at::Tensor> kept_;     ///< the base's own tensors
    std::map<std::string, at::Tensor> buffers_;  ///< copies
    bool returned_ = false;
  };

 private:
  struct Original {
    at::ScalarType dtype{};
    bool requires_grad = false;
    std::string digest;
  };
  [[nodiscard]] bool can_read_again() const;

  std::shared_ptr<torch::nn::Module> module_;
  std::shared_ptr<const Policy> policy_;
  std::map<std::string, Original> parameters_;
  std::map<std::string, std::string> buffers_;  ///< digests
  bool was_training_;
};

}  // namespace thaw
