#include "thaw/data/episode_split.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "thaw/core/error.h"

namespace thaw {

EpisodeSplit split_episodes(const LeRobotDataset& dataset, double fraction) {
  if (!(fraction >= 0.0 && fraction < 1.0)) {
    throw UsageError(
        Problem{.where = "held-out fraction", .expected = "0 or more and below 1", .found = std::to_string(fraction)});
  }
  std::map<std::string, std::vector<std::int64_t>> by_task;
  for (const std::int64_t episode : dataset.selected_episodes()) {
    const std::vector<std::string>& tasks = dataset.episodes()[static_cast<std::size_t>(episode)].tasks;
    by_task[tasks.empty() ? "" : tasks.front()].push_back(episode);
  }
  EpisodeSplit split;
  for (const auto& [task, episodes] : by_task) {
    const auto held_out = static_cast<std::ptrdiff_t>(std::ceil(static_cast<double>(episodes.size()) * fraction));
    const auto border = episodes.end() - held_out;
    split.training.insert(split.training.end(), episodes.begin(), border);
    split.held_out.insert(split.held_out.end(), border, episodes.end());
  }
  if (split.training.empty()) {
    throw UsageError(Problem{.where = "held-out fraction " + std::to_string(fraction),
                             .expected = "episodes left to train on",
                             .found = "none of " + std::to_string(dataset.selected_episodes().size()),
                             .fix = "Hold out less, or record more than one episode a task."});
  }
  std::sort(split.training.begin(), split.training.end());
  std::sort(split.held_out.begin(), split.held_out.end());
  return split;
}

}  // namespace thaw
