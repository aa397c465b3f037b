/// Exponential moving average of the trained tensors, and of nothing else.
/// Reference: the warm-up rule of LeRobot's EMA (diffusers' EMAModel).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "thaw/train/options.h"
#include "thaw/train/parameters.h"

namespace thaw {

class Ema {
 public:
  /// Begins as a copy of the parameters; empty when options.enable is false.
  Ema(std::vector<TrainableParameter> parameters, const EmaOptions& options);
  [[nodiscard]] bool enabled() const noexcept { return !averages_.empty(); }
  /// Decay after `step` steps (from 1).
  [[nodiscard]] double decay(std::int64_t step) const;
  /// average += (1 - decay) * (parameter - average); unchanged where found_inf is 1.
  void update(std::int64_t step, const at::Tensor& found_inf);

  /// Averages by parameter name.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// @throws MismatchError for a missing, unknown or misshapen entry
  void load_state(const std::map<std::string, at::Tensor>& state);
  /// Exchanges parameters and averages (twice: as before).
  void swap();

 private:
  EmaOptions options_;
  std::vector<TrainableParameter> parameters_;
  std::vector<at::Tensor> averages_;
};

/// The averages in place of the parameters while it lives. Does nothing when there are none.
class EmaScope {
 public:
  explicit EmaScope(Ema& ema) : ema_(ema) { ema_.swap(); }
  ~EmaScope() { ema_.swap(); }
  EmaScope(const EmaScope&) = delete;
  EmaScope& operator=(const EmaScope&) = delete;

 private:
  Ema& ema_;
};

}  // namespace thaw
