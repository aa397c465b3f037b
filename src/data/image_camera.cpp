#include <fmt/format.h>

#include "camera_impl.h"
#include "image_impl.h"

namespace thaw::lerobot {
namespace {

constexpr std::size_t kWaitingBlobs = 16;  // of one camera; each holds an open file

class ImageCamera final : public Camera {
 public:
  ImageCamera(const FeatureSpec& feature, const FrameTable& table, const std::vector<EpisodeRow>& episodes)
      : feature_(feature), files_(table.files), file_of_episode_(table.file_of_episode) {
    for (std::size_t e = 0; e < episodes.size(); ++e) {
      const DataFile& file = files_[file_of_episode_[e]];
      first_row_.push_back(episodes[e].from - episodes[file.first_episode].from);
    }
  }

  [[nodiscard]] std::vector<CameraFile> files() const override {
    std::vector<CameraFile> files;
    for (const DataFile& file : files_) files.push_back({.label = file.label, .path = file.path});
    return files;
  }

  std::vector<at::Tensor> frames(std::size_t episode, const std::vector<std::int64_t>& frames) override {
    const DataFile& file = files_[file_of_episode_[episode]];
    const auto make = [&] { return std::make_unique<ParquetBlobs>(file.path, file.label, feature_.name); };
    return readers_.with(file_of_episode_[episode], make, [&](ParquetBlobs& blobs) {
      std::vector<at::Tensor> pictures;
      pictures.reserve(frames.size());
      for (const std::int64_t frame : frames) pictures.push_back(read(blobs, file, first_row_[episode] + frame));
      return pictures;
    });
  }

  /// Every picture is decoded for itself; what its row costs to find is little beside that.
  [[nodiscard]] bool reads_on(const EpisodeFrame& /*before*/, const EpisodeFrame& /*next*/) const override {
    return false;
  }

 private:
  [[nodiscard]] at::Tensor read(ParquetBlobs& blobs, const DataFile& file, std::int64_t row) const {
    const std::string where = fmt::format("{} column '{}' row {}", file.label, feature_.name, row);
    at::Tensor picture = decode_image(blobs.read(row), where);
    if (picture.sizes() == at::IntArrayRef(feature_.shape)) return picture;
    throw MismatchError(Problem{
        .where = where,
        .expected = fmt::format("{} x {} pixels (height x width, info.json)", feature_.shape[1], feature_.shape[2]),
        .found = fmt::format("{} x {}", picture.size(1), picture.size(2))});
  }

  FeatureSpec feature_;
  std::vector<DataFile> files_;
  std::vector<std::size_t> file_of_episode_;
  std::vector<std::int64_t> first_row_;  // of an episode in its file
  ReaderPool<std::size_t, ParquetBlobs> readers_{kWaitingBlobs};
};

}  // namespace

std::unique_ptr<Camera> open_image_camera(const FeatureSpec& feature, const FrameTable& table,
                                          const std::vector<EpisodeRow>& episodes) {
  return std::make_unique<ImageCamera>(feature, table, episodes);
}

}  // namespace thaw::lerobot
