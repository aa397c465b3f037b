#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "thaw/core/error.h"
#include "video_file_impl.h"
#include "video_impl.h"

namespace thaw::lerobot {
namespace {

/// A seek costs about as much as decoding this many more frames.
constexpr std::int64_t kSeekCost = 2;

[[noreturn]] void refuse(const std::string& label, const std::string& expected, const std::string& found,
                         const std::string& fix = {}) {
  throw FormatError(Problem{.where = label, .expected = expected, .found = found, .fix = fix});
}

void check_codec(const AVCodecParameters& parameters, const std::string& label) {
  switch (parameters.codec_id) {
    case AV_CODEC_ID_AV1:
    case AV_CODEC_ID_H264:
    case AV_CODEC_ID_HEVC:
    case AV_CODEC_ID_VP9:
      return;
    default:
      refuse(label, "AV1, H.264, HEVC or VP9 video", avcodec_get_name(parameters.codec_id));
  }
}

void check_size(const AVCodecParameters& parameters, const std::string& label) {
  const std::int64_t pixels = std::int64_t{parameters.width} * parameters.height;
  if (parameters.width > 0 && parameters.height > 0 && pixels <= kMaxPixels) return;
  refuse(label, fmt::format("pictures of 1 to {} pixels", kMaxPixels),
         fmt::format("{} x {}", parameters.width, parameters.height));
}

/// The sample table names bytes; all of them must be there (a file with its header in front can be cut anywhere).
void check_bytes_are_there(const VideoFile& file) {
  AVStream& stream = file.stream();
  const int entries = avformat_index_get_entries_count(&stream);
  for (int i = 0; i < entries; ++i) {
    const AVIndexEntry& entry = *avformat_index_get_entry(&stream, i);
    const bool inside = entry.pos >= 0 && entry.size >= 0 && static_cast<std::uint64_t>(entry.pos) <= file.size() &&
                        static_cast<std::uint64_t>(entry.size) <= file.size() - static_cast<std::uint64_t>(entry.pos);
    if (inside) continue;
    refuse(file.label(), fmt::format("the bytes of {} frames", entries),
           fmt::format("the end of the file in frame {}", i), "The file was cut off: copy or download it again.");
  }
}

void collect_packets(VideoFile& file, VideoIndex& index) {
  const Av<AVPacket> packet(av_packet_alloc());
  if (packet == nullptr) throw std::bad_alloc();
  file.leave_out_pictures();
  while (file.read(*packet)) {
    if ((packet->flags & AV_PKT_FLAG_DISCARD) != 0) continue;  // hidden by the edit list
    if (packet->pts == AV_NOPTS_VALUE) refuse(file.label(), "a time for every frame", "a frame without");
    index.pts.push_back(packet->pts);
    if ((packet->flags & AV_PKT_FLAG_KEY) != 0) index.keys.push_back({.pts = packet->pts, .dts = packet->dts});
  }
}

void sort_and_check(VideoIndex& index) {
  std::sort(index.pts.begin(), index.pts.end());
  std::sort(index.keys.begin(), index.keys.end(), [](const auto& a, const auto& b) { return a.pts < b.pts; });
  if (index.pts.empty()) refuse(index.label, "frames", "none");
  if (std::adjacent_find(index.pts.begin(), index.pts.end()) != index.pts.end()) {
    refuse(index.label, "a time of its own for every frame", "two frames at one time");
  }
  if (index.keys.empty() || index.keys.front().pts > index.pts.front()) {
    refuse(index.label, "a video that begins with a key frame", "none at its beginning");
  }
}

double median_rate(const VideoIndex& index) {
  if (index.pts.size() < 2) return 0.0;
  std::vector<std::int64_t> steps(index.pts.size() - 1);
  for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = index.pts[i + 1] - index.pts[i];
  const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(steps.size() / 2);
  std::nth_element(steps.begin(), middle, steps.end());
  return 1.0 / (static_cast<double>(*middle) * index.seconds_per_tick);
}

}  // namespace

std::int64_t VideoIndex::nearest(double seconds) const {
  const double wanted = seconds / seconds_per_tick;
  const auto after = std::lower_bound(pts.begin(), pts.end(), wanted, [](std::int64_t time, double value) {
    return static_cast<double>(time) < value;
  });
  if (after == pts.begin()) return 0;
  if (after == pts.end()) return frames() - 1;
  const bool later_is_nearer = static_cast<double>(*after) - wanted < wanted - static_cast<double>(*(after - 1));
  return after - pts.begin() - (later_is_nearer ? 0 : 1);
}

const VideoIndex::Key& VideoIndex::key_of(std::int64_t ordinal) const {
  const std::int64_t time = pts[static_cast<std::size_t>(ordinal)];
  const auto after = std::upper_bound(keys.begin(), keys.end(), time,
                                      [](std::int64_t value, const Key& key) { return value < key.pts; });
  return *(after - 1);  // sort_and_check: the first frame is a key frame
}

std::int64_t VideoIndex::ordinal_of(std::int64_t time) const {
  return std::lower_bound(pts.begin(), pts.end(), time) - pts.begin();
}

bool VideoIndex::reads_on(std::int64_t last, std::int64_t ordinal) const {
  if (ordinal <= last) return false;
  const std::int64_t from_key = ordinal - ordinal_of(key_of(ordinal).pts) + 1;
  return ordinal - last <= from_key + kSeekCost;
}

VideoIndex index_video(const std::filesystem::path& path, const std::string& label) {
  VideoFile file(path, label);
  const AVStream& stream = file.stream();
  check_codec(*stream.codecpar, label);
  check_size(*stream.codecpar, label);
  check_bytes_are_there(file);
  VideoIndex index{.path = path,
                   .label = label,
                   .codec = avcodec_get_name(stream.codecpar->codec_id),
                   .width = stream.codecpar->width,
                   .height = stream.codecpar->height,
                   .seconds_per_tick = av_q2d(stream.time_base)};
  if (!(index.seconds_per_tick > 0.0)) refuse(label, "a time base above 0", fmt::format("{}", index.seconds_per_tick));
  collect_packets(file, index);
  sort_and_check(index);
  index.fps = median_rate(index);
  return index;
}

}  // namespace thaw::lerobot
