/// Fused AdamW over named parameter groups (at::_fused_adamw_: one kernel per group on CPU and CUDA).
/// Semantics: torch.optim.AdamW with decoupled weight decay on every tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
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

  /// Every group's rate of the next updates: its peak times the schedule's factor.
  void set_factor(double factor);
  /// Updates every parameter that has a gradient (one without is not touched, weight decay included). `found_inf`: ()
  /// float32 on the device; where it is 1, nothing changes, step counts included.
  void step(const at::Tensor& found_inf);
  /// From now on the rates are read on the device, as float32: a recorded step follows the schedule.
  void hold_rates_on_device();

  /// From now on just the parameters for which `trains` holds are updated: the others' moments are given up, and those
  /// that come anew begin with moments and counts of zero. At first all of them train.
  void restrict_to(const std::function<bool(const std::string&)>& trains);

  [[nodiscard]] double base_rate() const noexcept { return base_rate_; }
  /// Peak rate of a parameter. @throws UsageError for a name it does not hold
  [[nodiscard]] double peak_rate(const std::string& name) const;
  [[nodiscard]] std::int64_t state_bytes() const;

  /// Of the parameters that train now: "state/<name>/exp_avg", "state/<name>/exp_avg_sq" (shape of the parameter),
  /// "state/<name>/step" () float32.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// @throws MismatchError for a missing, unknown or misshapen entry; nothing is changed then
  void load_state(const std::map<std::string, at::Tensor>& state);

 private:
  struct Slot {
    TrainableParameter parameter;
    at::Tensor exp_avg, exp_avg_sq;  ///< undefined while it does not train
    double peak = 0.0;
  };
  void count_updates(const at::Tensor& found_inf);
  struct Group {
    std::vector<std::size_t> members;  ///< slots
    at::Tensor rate;                   ///< () float64 on the host, or float32 on the device
  };
  void step_group(const Group& group, const at::Tensor& found_inf);

  std::vector<Slot> slots_;
  std::map<double, Group> groups_;  ///< by peak rate
  std::vector<float> counted_;      ///< 1 for each slot that had a gradient in the last step
  at::Tensor counted_on_device_;
  at::Tensor steps_;  ///< (slots) float32: updates made, as the fused kernel wants them
  double base_rate_ = 0.0, beta1_ = 0.0, beta2_ = 0.0, eps_ = 0.0, weight_decay_ = 0.0;
};

}  // namespace thaw
