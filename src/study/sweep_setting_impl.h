// What all points of a sweep share, as JSON: two settings are equal exactly when equal points give equal results.
#pragma once

#include <memory>

#include "thaw/core/json.h"
#include "thaw/train/options.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// The options that decide a result, without those that a point has (rate, seed, draws, steps) and those that move at
/// most where and when things are written.
[[nodiscard]] Json options_to_json(const TrainOptions& options);

/// `options` checked, with the device and the precision that are meant. @throws UsageError
[[nodiscard]] TrainOptions with_device(TrainOptions options);

/// Moves the module, and returns it.
[[nodiscard]] std::shared_ptr<torch::nn::Module> on_device(std::shared_ptr<torch::nn::Module> module,
                                                           const TrainOptions& options);

}  // namespace thaw
