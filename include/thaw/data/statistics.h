/// Exact dataset statistics of the numeric features: double precision, every frame, linear-interpolated quantiles
/// (numpy.quantile's default). LeRobot 0.6.1 averages per-episode quantiles, which is wrong for several tasks.
#pragma once

#include <string>
#include <vector>

#include "thaw/data/dataset.h"

namespace thaw {

struct DatasetStatistics {
  Statistics values;                   ///< float64; numeric features exact, cameras as stored in the dataset
  std::vector<std::string> warnings;   ///< degenerate ranges ("action[3]: q01 = q99 = …"), NaN, constant dimensions
};

/// Over the selected episodes. mean, std (population), min, max, count, q01, q10, q50, q90, q99.
[[nodiscard]] DatasetStatistics compute_statistics(const LeRobotDataset& dataset);

}  // namespace thaw
