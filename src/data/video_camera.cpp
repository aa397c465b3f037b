#include <fmt/format.h>

#include <cmath>
#include <map>

#include "camera_impl.h"
#include "parallel_impl.h"
#include "thaw/core/files.h"

namespace thaw::lerobot {
namespace {

constexpr std::size_t kWaitingReaders = 16;  // of one camera; each holds a decoder with its pictures
constexpr double kRateTolerance = 0.01;      // relative: 29.97 in a 30 fps dataset is addressed by number all the same

struct Span {
  std::size_t file = 0;
  std::int64_t first = 0;
};

class VideoCamera final : public Camera {
 public:
  VideoCamera(std::vector<std::shared_ptr<const VideoIndex>> files, std::vector<Span> spans)
      : files_(std::move(files)), spans_(std::move(spans)) {}

  [[nodiscard]] std::vector<CameraFile> files() const override {
    std::vector<CameraFile> files;
    for (const auto& index : files_) files.push_back({.label = index->label, .path = index->path});
    return files;
  }

  std::vector<at::Tensor> frames(std::size_t episode, const std::vector<std::int64_t>& frames) override {
    const Span& span = spans_[episode];
    const auto make = [&] { return std::make_unique<VideoReader>(files_[span.file]); };
    return readers_.with(span.file, make, [&](VideoReader& reader) {
      std::vector<at::Tensor> pictures;
      pictures.reserve(frames.size());
      for (const std::int64_t frame : frames) pictures.push_back(reader.frame(span.first + frame));
      return pictures;
    });
  }

  [[nodiscard]] bool reads_on(const EpisodeFrame& before, const EpisodeFrame& next) const override {
    const Span& last = spans_[before.episode];
    const Span& span = spans_[next.episode];
    return last.file == span.file && files_[span.file]->reads_on(last.first + before.frame, span.first + next.frame);
  }

 private:
  std::vector<std::shared_ptr<const VideoIndex>> files_;
  std::vector<Span> spans_;  // by episode
  ReaderPool<std::size_t, VideoReader> readers_{kWaitingReaders};
};

void check_against_info(const VideoIndex& index, const DatasetInfo& info, const FeatureSpec& feature) {
  if (index.height != feature.shape[1] || index.width != feature.shape[2]) {
    throw MismatchError(Problem{
        .where = index.label,
        .expected = fmt::format("{} x {} pixels (height x width, info.json)", feature.shape[1], feature.shape[2]),
        .found = fmt::format("{} x {}", index.height, index.width)});
  }
  if (index.fps > 0.0 && std::abs(index.fps - info.fps) > kRateTolerance * info.fps) {
    throw MismatchError(Problem{.where = index.label,
                                .expected = fmt::format("{} frames a second (info.json 'fps')", info.fps),
                                .found = fmt::format("{:.4g}", index.fps)});
  }
}

/// v2.1 has a file an episode.
void check_whole_file(const VideoIndex& index, const PlacedEpisode& episode) {
  if (index.frames() == episode.length) return;
  throw MismatchError(
      Problem{.where = index.label,
              .expected = fmt::format("{} frames, the length of episode {}", episode.length, episode.episode),
              .found = std::to_string(index.frames())});
}

using Users = std::map<std::string, std::vector<PlacedEpisode>>;  // relative path -> its episodes

Users users_of_files(const std::string& camera, const std::vector<EpisodeRow>& episodes) {
  Users users;
  for (const EpisodeRow& row : episodes) {
    const VideoSpan& span = row.videos.at(camera);
    users[span.file].push_back({.episode = row.index, .length = row.length, .from_timestamp = span.from_timestamp});
  }
  return users;
}

std::shared_ptr<const VideoIndex> open_index(const std::filesystem::path& root, const std::string& label,
                                             const DatasetInfo& info, const FeatureSpec& feature,
                                             std::vector<PlacedEpisode>& episodes) {
  const std::filesystem::path path = resolve_beneath(root, label, "meta/info.json 'video_path'");
  auto index = std::make_shared<const VideoIndex>(index_video(path, label));
  check_against_info(*index, info, feature);
  if (!info.is_v3) check_whole_file(*index, episodes.front());
  place_episodes(*index, episodes);
  return index;
}

}  // namespace

std::unique_ptr<Camera> open_video_camera(const std::filesystem::path& root, const DatasetInfo& info,
                                          const FeatureSpec& feature, const std::vector<EpisodeRow>& episodes,
                                          Findings& findings) {
  Users users = users_of_files(feature.name, episodes);
  std::vector<Users::value_type*> files;
  for (auto& user : users) files.push_back(&user);
  std::vector<std::shared_ptr<const VideoIndex>> indexes(files.size());
  const auto errors = parallel_for(files.size(), [&](std::size_t f) {
    indexes[f] = open_index(root, files[f]->first, info, feature, files[f]->second);
  });
  std::vector<Span> spans(episodes.size());
  for (std::size_t f = 0; f < files.size(); ++f) {
    findings.attempt([&] {
      if (errors[f] != nullptr) std::rethrow_exception(errors[f]);
    });
    for (const PlacedEpisode& placed : files[f]->second) {
      spans[static_cast<std::size_t>(placed.episode)] = {.file = f, .first = placed.first};
    }
  }
  return std::make_unique<VideoCamera>(std::move(indexes), std::move(spans));
}

}  // namespace thaw::lerobot
