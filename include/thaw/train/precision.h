/// Number formats of a run: frozen weights once in the compute dtype, trainable weights as float32 masters, autocast
/// around the forward pass, and loss scaling for fp16.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "thaw/freeze/plan.h"
#include "thaw/train/options.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// automatic -> bf16 where it is native, else fp32; others as they are. @throws UsageError for fp16 on a CPU
[[nodiscard]] Precision resolve_precision(Precision precision, at::Device device);
[[nodiscard]] at::ScalarType compute_dtype(Precision precision);

/// Frozen and dead matrices (rank 2 and more) -> compute dtype; frozen vectors (norm weights, biases) and everything
/// trainable -> float32. float64 stays. Nothing else (buffers, integers) changes.
void cast_parameters(const FreezePlan& plan, torch::nn::Module& module, Precision precision);

/// Autocast on the device for bf16 and fp16, off for fp32, as it was before at the end. Casts cached inside are
/// dropped.
class AutocastScope {
 public:
  AutocastScope(Precision precision, at::Device device);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  at::DeviceType device_;
  bool was_enabled_;
  at::ScalarType was_dtype_;
};

/// Dynamic loss scaling (torch.amp.GradScaler's rule: halve on overflow, double after 2000 good steps). Off (scale 1)
/// unless the precision is fp16.
class LossScaler {
 public:
  LossScaler(Precision precision, at::Device device);
  [[nodiscard]] bool enabled() const noexcept { return enabled_; }
  [[nodiscard]] at::Tensor scale(const at::Tensor& loss) const;
  /// Divides the gradients by the scale in place. Returns () float32, 1 when one is not finite; undefined when off.
  [[nodiscard]] at::Tensor unscale(std::vector<at::Tensor> gradients) const;
  void update(const at::Tensor& found_inf);

  struct State {
    double scale = 1.0;
    std::int64_t growth_tracker = 0;
  };
  [[nodiscard]] State state() const;
  void load(const State& state);

 private:
  bool enabled_;
  at::Tensor scale_;   ///< () float32
  at::Tensor growth_;  ///< () int32
};

}  // namespace thaw
