/// What happens to gradients between backward and the optimizer, on the device and without waiting for it.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "thaw/train/parameters.h"

namespace thaw {

/// Norm of each gradient, and of all of them.
struct GradientNorms {
  std::vector<std::size_t> members;  ///< parameters that have a gradient, by position
  at::Tensor each;                   ///< (members) float32
  at::Tensor total;                  ///< () float32
};

[[nodiscard]] GradientNorms gradient_norms(const std::vector<TrainableParameter>& parameters);

/// Multiplies every gradient by min(1, max_norm / (total + 1e-6)), as torch.nn.utils.clip_grad_norm_ does, but without
/// reading the norm on the host. max_norm 0: nothing happens.
void clip_gradients(const std::vector<TrainableParameter>& parameters, const GradientNorms& norms, double max_norm);

void drop_gradients(const std::vector<TrainableParameter>& parameters);

/// Remembers which parameters ever had a gradient, and one that was finite and not all zero.
class GradientRecord {
 public:
  explicit GradientRecord(std::size_t parameters, at::Device device);
  void note(const GradientNorms& norms);
  struct Flags {
    bool seen = false;       ///< a gradient existed
    bool effective = false;  ///< one was finite and not all zero
  };
  [[nodiscard]] std::vector<Flags> flags() const;
  void load(const std::vector<Flags>& flags);

 private:
  std::vector<bool> seen_;
  at::Tensor effective_;              ///< (parameters) float32, 0 or 1, on the device
  std::vector<std::size_t> members_;  ///< of the last norms that were not all
  at::Tensor members_on_device_;
};

}  // namespace thaw
