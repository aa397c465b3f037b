/// Which episodes are held out for evaluation.
#pragma once

#include <cstdint>
#include <vector>

#include "thaw/data/dataset.h"

namespace thaw {

/// Two disjoint lists of episodes, each ascending.
struct EpisodeSplit {
  std::vector<std::int64_t> training;
  std::vector<std::int64_t> held_out;
};

/// Of the selected episodes, for every first task text the last ceil(n * fraction) are held out; 0 holds out none.
/// Reference: eval_split in lerobot/datasets/factory.py, make_train_eval_datasets.
/// @throws UsageError unless fraction is in [0, 1); when nothing is left to train on
[[nodiscard]] EpisodeSplit split_episodes(const LeRobotDataset& dataset, double fraction);

}  // namespace thaw
