#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "camera_impl.h"
#include "thaw/core/log.h"

namespace thaw::lerobot {
namespace {

void warn_of_drift(const VideoIndex& index, const PlacedEpisode& episode, std::int64_t nearest) {
  log_warning(
      fmt::format("{}: from_timestamp of episode {} is frame {} by time and frame {} by count; the count is taken",
                  index.label, episode.episode, nearest, episode.first));
}

/// Where the timestamps alone say where an episode begins, they must point into the video.
void check_time(const VideoIndex& index, const PlacedEpisode& episode) {
  const double first = static_cast<double>(index.pts.front()) * index.seconds_per_tick;
  const double last = static_cast<double>(index.pts.back()) * index.seconds_per_tick;
  const double frame = index.fps > 0.0 ? 1.0 / index.fps : 0.0;
  if (episode.from_timestamp >= first - frame && episode.from_timestamp <= last + frame) return;
  throw MismatchError(Problem{.where = index.label,
                              .expected = fmt::format("episode {} to begin at {:.3f} s (episode table)",
                                                      episode.episode, episode.from_timestamp),
                              .found = fmt::format("a video from {:.3f} to {:.3f} s", first, last)});
}

void check_room(const VideoIndex& index, const PlacedEpisode& episode) {
  if (episode.first <= index.frames() - episode.length) return;
  throw MismatchError(Problem{.where = index.label,
                              .expected = fmt::format("{} frames from frame {} on for episode {} (episode table)",
                                                      episode.length, episode.first, episode.episode),
                              .found = fmt::format("a video of {} frames", index.frames())});
}

}  // namespace

void place_episodes(const VideoIndex& index, std::vector<PlacedEpisode>& episodes) {
  std::stable_sort(episodes.begin(), episodes.end(),
                   [](const auto& a, const auto& b) { return a.from_timestamp < b.from_timestamp; });
  const std::int64_t counted = std::accumulate(episodes.begin(), episodes.end(), std::int64_t{0},
                                               [](std::int64_t sum, const auto& e) { return sum + e.length; });
  const bool filled = counted == index.frames();
  std::int64_t end_of_last = 0;
  bool warned = false;
  for (PlacedEpisode& episode : episodes) {
    if (!filled) check_time(index, episode);
    const std::int64_t nearest = index.nearest(episode.from_timestamp);
    episode.first = filled ? end_of_last : std::max(end_of_last, nearest);
    if (episode.first != nearest && !warned) {
      warn_of_drift(index, episode, nearest);
      warned = true;
    }
    check_room(index, episode);
    end_of_last = episode.first + episode.length;
  }
  if (counted < index.frames()) {
    log_warning(fmt::format("{}: {} of {} frames belong to no episode (an edited dataset?)", index.label,
                            index.frames() - counted, index.frames()));
  }
}

}  // namespace thaw::lerobot
