/// Dataset statistics by feature and name, as in LeRobot's stats.json and processor state files.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace thaw {

/// feature -> statistic ("mean", "std", "min", "max", "q01", "q10", "q50", "q90", "q99", "count") -> float32 or float64
/// tensor of the feature's shape (images (C, 1, 1) in [0, 1] units).
using Statistics = std::map<std::string, std::map<std::string, at::Tensor>>;

}  // namespace thaw
