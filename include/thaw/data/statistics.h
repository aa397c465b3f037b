/// Exact dataset statistics of the numeric features: double precision, every frame, linear-interpolated quantiles
/// (numpy.quantile's default). LeRobot 0.6.1 averages per-episode quantiles, which is wrong for several tasks.
#pragma once

#include <string>
#include <vector>

#include "thaw/data/dataset.h"

namespace thaw {

struct DatasetStatistics {
  Statistics values;                  ///< float64; numeric features exact, cameras as stored in the dataset
  std::vector<std::string> warnings;  ///< degenerate ranges ("action[3]: q01 = q99 = …"), NaN, constant dimensions
};

/// Over the selected episodes. mean, std (population), min, max, count, q01, q10, q50, q90, q99; booleans count as 0
/// and 1, values that are not finite are left out (and reported).
///
/// What cannot be normalised is reported, for state and action features: LeRobot divides by (std + 1e-8) and by
/// (q99 - q01), or 1e-8 where that is 0, so a value off a constant becomes 1e8 times its distance.
[[nodiscard]] DatasetStatistics compute_statistics(const LeRobotDataset& dataset);

/// Makes the ranges of state, environment and action features usable for normalisation where they are not, and says
/// what it did, one line a value. A range counts as none when it is at most 1e-6 of the largest magnitude. No q01–q99
/// or q10–q90 range but a min–max range: the quantiles become min and max. No range at all (a constant c): quantiles
/// and extremes become c - 1 and c + 1, std 1, so that c is normalised to 0. The rest stays exact.
std::vector<std::string> guard_degenerate(Statistics& statistics);

}  // namespace thaw
