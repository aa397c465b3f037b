/// Fused AdamW over named parameter groups (at::_fused_adamw_: one kernel per group on CPU and CUDA).
/// Semantics: torch.optim.AdamW with decoupled weight decay on every tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "thaw/policy/policy.h"
#include "thaw/train/options.h"
#include "thaw/train/parameters.h"

namespace thaw {

class AdamW {
 public:
  /// One group per peak learning rate that the options give. Moments are zero and float32 like the parameters.
  /// @throws UsageError for a rate rule that matches no trainable parameter (with the nearest names)
  AdamW(const std::vector<TrainableParameter>& parameters, const OptimizerOptions& options,
        const TrainingPreset& preset);

  /// Updates every parameter that has a gradient (one without is not touched, weight decay included). `factor` is the
  /// schedule's. `found_inf`: () float32 on the device; where it is 1, nothing changes, step counts included.
  void step(double factor, const at::Tensor& found_inf);

  [[nodiscard]] double base_rate() const noexcept { return base_rate_; }
  /// Peak rate of a parameter. @throws UsageError for a name it does not hold
  [[nodiscard]] double peak_rate(const std::string& name) const;
  [[nodiscard]] std::int64_t state_bytes() const;

  /// "state/<name>/exp_avg", "state/<name>/exp_avg_sq" (shape of the parameter), "state/<name>/step" () float32.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// @throws MismatchError for a missing, unknown or misshapen entry; nothing is changed then
  void load_state(const std::map<std::string, at::Tensor>& state);

 private:
  struct Slot {
    TrainableParameter parameter;
    at::Tensor exp_avg, exp_avg_sq;
    double peak = 0.0;
  };
  void count_updates(const at::Tensor& found_inf);
  void step_group(double rate, const std::vector<std::size_t>& members, const at::Tensor& found_inf);

  std::vector<Slot> slots_;
  std::map<double, std::vector<std::size_t>> groups_;  ///< peak rate -> slots
  at::Tensor steps_;  ///< (slots) float32: updates made, as the fused kernel wants them
  double base_rate_ = 0.0, beta1_ = 0.0, beta2_ = 0.0, eps_ = 0.0, weight_decay_ = 0.0;
};

}  // namespace thaw
