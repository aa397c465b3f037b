#include "thaw/data/dataset.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>
#include <span>

#include "dataset_digest_impl.h"
#include "tables_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

using lerobot::FeatureSpec;
using lerobot::Tables;

constexpr std::int64_t kFarthest = 1'000'000;  // frames; a delta beyond is a typing error
constexpr std::size_t kMostSteps = 100'000;

/// Frames of one delta list for one sample: clamped to the episode, and which were clamped.
struct Steps {
  std::vector<std::int64_t> frames;  // global
  at::Tensor is_pad;                 // (T) bool
};

Steps clamp_steps(const std::vector<std::int64_t>& deltas, std::int64_t frame, const Episode& episode) {
  Steps steps{.is_pad = at::empty({static_cast<std::int64_t>(deltas.size())}, at::kBool)};
  bool* pad = steps.is_pad.mutable_data_ptr<bool>();
  for (const std::int64_t delta : deltas) {
    const std::int64_t wanted = frame + delta;
    steps.frames.push_back(std::clamp(wanted, episode.from, episode.to - 1));
    *pad++ = wanted < episode.from || wanted >= episode.to;
  }
  return steps;
}

/// Copies rows one after the other into `out`, which has room for just them. (A dispatched operator for each of a
/// sample's small columns took as long as decoding a small picture.)
at::Tensor copy_rows(const at::Tensor& column, std::span<const std::int64_t> rows, at::Tensor out) {
  const std::size_t row_bytes = out.nbytes() / rows.size();
  const auto* from = static_cast<const std::byte*>(column.const_data_ptr());
  auto* to = static_cast<std::byte*>(out.mutable_data_ptr());
  for (const std::int64_t row : rows) {
    std::memcpy(to, from + static_cast<std::size_t>(row) * row_bytes, row_bytes);
    to += row_bytes;
  }
  return out;
}

/// One row, without a time axis. A copy: a transform may write into it.
at::Tensor row_of(const at::Tensor& column, std::int64_t row) {
  return copy_rows(column, {&row, 1}, at::empty(column.sizes().slice(1), column.scalar_type()));
}

/// (T) or (T, D…).
at::Tensor rows_of(const at::Tensor& column, const std::vector<std::int64_t>& rows) {
  std::vector<std::int64_t> shape = column.sizes().vec();
  shape.front() = static_cast<std::int64_t>(rows.size());
  return copy_rows(column, rows, at::empty(shape, column.scalar_type()));
}

/// Pictures of the wanted frames; a frame wanted twice is decoded once, and decoding goes forward.
at::Tensor pictures(lerobot::Camera& camera, const Episode& episode, const std::vector<std::int64_t>& frames) {
  const std::set<std::int64_t> distinct(frames.begin(), frames.end());
  std::vector<std::int64_t> rising;
  rising.reserve(distinct.size());
  for (const std::int64_t frame : distinct) rising.push_back(frame - episode.from);
  const std::vector<at::Tensor> decoded = camera.frames(static_cast<std::size_t>(episode.index), rising);
  if (frames.size() == 1) return decoded.front();
  std::vector<at::Tensor> in_order;
  for (const std::int64_t frame : frames) {
    const auto place = std::distance(distinct.begin(), distinct.find(frame));
    in_order.push_back(decoded[static_cast<std::size_t>(place)]);
  }
  return at::stack(in_order);
}

void check_unique(const std::vector<std::int64_t>& episodes) {
  std::set<std::int64_t> seen;
  for (const std::int64_t episode : episodes) {
    if (episode >= 0 && seen.insert(episode).second) continue;
    throw UsageError(Problem{.where = "episodes",
                             .expected = "episode numbers from 0, each once",
                             .found = episode < 0 ? std::to_string(episode) : fmt::format("{} twice", episode)});
  }
}

void check_known(const std::string& where, const std::string& name, const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  throw UsageError(Problem{
      .where = where, .expected = "a feature of the dataset", .found = "'" + name + "'", .fix = suggest(name, known)});
}

}  // namespace

void DatasetOptions::validate() const {
  check_unique(episodes);
  for (const auto& [key, list] : deltas) {
    const bool possible =
        !list.empty() && list.size() <= kMostSteps &&
        std::all_of(list.begin(), list.end(), [](std::int64_t d) { return std::abs(d) <= kFarthest; });
    if (possible) continue;
    throw UsageError(Problem{.where = "deltas of '" + key + "'",
                             .expected = fmt::format("1 to {} offsets within {} frames", kMostSteps, kFarthest),
                             .found = list.empty() ? "none" : fmt::format("{} offsets or one beyond", list.size())});
  }
}

DeltaIndices delta_indices(const std::map<std::string, std::vector<double>>& delta_timestamps, double fps,
                           double tolerance_s) {
  DeltaIndices indices;
  std::vector<std::string> offenders;
  for (const auto& [key, seconds] : delta_timestamps) {
    std::vector<std::int64_t>& frames = indices[key];
    for (const double offset : seconds) {
      const double exact = offset * fps;
      const double frame = std::nearbyint(exact);
      const bool whole =
          std::abs(exact - frame) / fps <= tolerance_s && std::abs(frame) <= static_cast<double>(kFarthest);
      if (!whole) offenders.push_back(fmt::format("{} of '{}'", offset, key));
      frames.push_back(whole ? static_cast<std::int64_t>(frame) : 0);
    }
  }
  if (offenders.empty()) return indices;
  throw UsageError(Problem{.where = "delta_timestamps",
                           .expected = fmt::format("multiples of 1/{} s within {} s", fps, tolerance_s),
                           .found = fmt::format("{}", fmt::join(offenders, ", "))});
}

struct LeRobotDataset::Impl {
  std::shared_ptr<const Tables> tables;
  DatasetOptions options;
  std::vector<std::int64_t> selected;  // episodes, ascending
  std::vector<std::int64_t> first;     // position of each selected episode's first frame
  std::int64_t size = 0;
  std::vector<std::string> cameras;  // decoded ones

  Impl(std::shared_ptr<const Tables> shared, DatasetOptions wanted)
      : tables(std::move(shared)), options(std::move(wanted)) {
    options.validate();
    select_episodes();
    select_cameras();
    check_deltas();
  }

  void select_episodes() {
    selected = options.episodes;
    std::sort(selected.begin(), selected.end());
    const auto total = static_cast<std::int64_t>(tables->episodes.size());
    if (selected.empty()) {
      selected.resize(tables->episodes.size());
      std::iota(selected.begin(), selected.end(), std::int64_t{0});
    }
    if (selected.back() >= total) {
      throw UsageError(Problem{.where = "episodes",
                               .expected = fmt::format("numbers below {}, the episodes of the dataset", total),
                               .found = std::to_string(selected.back())});
    }
    for (const std::int64_t episode : selected) {
      first.push_back(size);
      size += tables->episodes[static_cast<std::size_t>(episode)].length();
    }
  }

  [[nodiscard]] std::vector<std::string> known_cameras() const {
    std::vector<std::string> known;
    for (const FeatureSpec& feature : tables->info.features) {
      if (feature.is_camera()) known.push_back(feature.name);
    }
    return known;
  }

  void select_cameras() {
    const std::vector<std::string> known = known_cameras();
    for (const std::string& camera : options.cameras) check_known("cameras", camera, known);
    if (!options.decode_images) return;
    cameras = options.cameras.empty() ? known : options.cameras;
  }

  void check_deltas() const {
    std::vector<std::string> known;
    for (const Feature& feature : tables->features) known.push_back(feature.name);
    for (const auto& [key, list] : options.deltas) check_known("deltas", key, known);
  }

  /// The selected episode that holds a position, and the global frame there.
  [[nodiscard]] std::pair<const Episode*, std::int64_t> locate(std::int64_t position) const {
    if (position < 0 || position >= size) {
      throw UsageError(Problem{.where = "dataset position",
                               .expected = fmt::format("0 to {}", size - 1),
                               .found = std::to_string(position)});
    }
    const auto after = std::upper_bound(first.begin(), first.end(), position);
    const auto slot = static_cast<std::size_t>(after - first.begin() - 1);
    const Episode& episode = tables->episodes[static_cast<std::size_t>(selected[slot])];
    return {&episode, episode.from + position - first[slot]};
  }

  [[nodiscard]] const std::vector<std::int64_t>* deltas_of(const std::string& key) const {
    const auto found = options.deltas.find(key);
    return found == options.deltas.end() ? nullptr : &found->second;
  }

  [[nodiscard]] const std::string& task_of(std::int64_t frame) const {
    const auto task = static_cast<std::size_t>(tables->task_of_frame[static_cast<std::size_t>(frame)]);
    return tables->tasks[task];
  }

  [[nodiscard]] Sample numbers(const Episode& episode, std::int64_t frame) const {
    Sample sample{.task = task_of(frame), .index = frame, .episode = episode.index};
    add_numbers(sample, episode);
    return sample;
  }

  void add_numbers(Sample& sample, const Episode& episode) const {
    for (const auto& [key, column] : tables->frames.columns) {
      const std::vector<std::int64_t>* deltas = deltas_of(key);
      if (deltas == nullptr) {
        sample.tensors[key] = row_of(column, sample.index);
        continue;
      }
      const Steps steps = clamp_steps(*deltas, sample.index, episode);
      sample.tensors[key] = rows_of(column, steps.frames);
      sample.tensors[key + "_is_pad"] = steps.is_pad;
    }
  }

  [[nodiscard]] lerobot::EpisodeFrame picture_at(std::int64_t position) const {
    const auto [episode, frame] = locate(position);
    return {.episode = static_cast<std::size_t>(episode->index), .frame = frame - episode->from};
  }

  void add_pictures(Sample& sample, const Episode& episode) const {
    for (const std::string& key : cameras) {
      const std::vector<std::int64_t>* deltas = deltas_of(key);
      const Steps steps =
          clamp_steps(deltas == nullptr ? std::vector<std::int64_t>{0} : *deltas, sample.index, episode);
      sample.tensors[key] = pictures(*tables->cameras.at(key), episode, steps.frames);
      if (deltas != nullptr) sample.tensors[key + "_is_pad"] = steps.is_pad;
    }
  }
};

LeRobotDataset::LeRobotDataset(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
LeRobotDataset::~LeRobotDataset() = default;
LeRobotDataset::LeRobotDataset(LeRobotDataset&&) noexcept = default;
LeRobotDataset& LeRobotDataset::operator=(LeRobotDataset&&) noexcept = default;

LeRobotDataset LeRobotDataset::open(const std::filesystem::path& root, DatasetOptions options) {
  options.validate();
  return LeRobotDataset(std::make_shared<const Impl>(lerobot::read_tables(root), std::move(options)));
}

LeRobotDataset LeRobotDataset::with(DatasetOptions options) const {
  return LeRobotDataset(std::make_shared<const Impl>(impl_->tables, std::move(options)));
}

const std::filesystem::path& LeRobotDataset::root() const { return impl_->tables->root; }
const std::string& LeRobotDataset::version() const { return impl_->tables->info.version; }
double LeRobotDataset::fps() const { return impl_->tables->info.fps; }
std::int64_t LeRobotDataset::size() const { return impl_->size; }
std::int64_t LeRobotDataset::total_frames() const { return impl_->tables->total_frames(); }
const std::vector<Episode>& LeRobotDataset::episodes() const { return impl_->tables->episodes; }
const std::vector<std::int64_t>& LeRobotDataset::selected_episodes() const { return impl_->selected; }
const std::vector<std::string>& LeRobotDataset::tasks() const { return impl_->tables->tasks; }
const Features& LeRobotDataset::features() const { return impl_->tables->features; }
const DatasetOptions& LeRobotDataset::options() const { return impl_->options; }
bool LeRobotDataset::is_video(const std::string& camera) const {
  check_known("camera", camera, impl_->known_cameras());
  return impl_->tables->feature(camera)->kind == FeatureSpec::Kind::video;
}
const Statistics& LeRobotDataset::stored_statistics() const { return impl_->tables->stored_statistics; }

std::int64_t LeRobotDataset::frame_at(std::int64_t position) const { return impl_->locate(position).second; }

const std::string& LeRobotDataset::task_at(std::int64_t position) const {
  return impl_->task_of(impl_->locate(position).second);
}

Sample LeRobotDataset::sample(std::int64_t position) const {
  const auto [episode, frame] = impl_->locate(position);
  Sample sample = impl_->numbers(*episode, frame);
  impl_->add_pictures(sample, *episode);
  return sample;
}

Sample LeRobotDataset::sample_without_images(std::int64_t position) const {
  const auto [episode, frame] = impl_->locate(position);
  return impl_->numbers(*episode, frame);
}

bool LeRobotDataset::reads_on(std::int64_t before, std::int64_t next) const {
  const lerobot::EpisodeFrame last = impl_->picture_at(before);
  const lerobot::EpisodeFrame frame = impl_->picture_at(next);
  return std::any_of(impl_->cameras.begin(), impl_->cameras.end(), [&](const std::string& camera) {
    return impl_->tables->cameras.at(camera)->reads_on(last, frame);
  });
}

std::string LeRobotDataset::digest() const { return lerobot::dataset_digest(*impl_->tables); }

at::Tensor LeRobotDataset::column(const std::string& key) const {
  const auto& columns = impl_->tables->frames.columns;
  const auto found = columns.find(key);
  if (found == columns.end()) {
    std::vector<std::string> known;
    known.reserve(columns.size());
    for (const auto& [name, column] : columns) known.push_back(name);
    check_known("column", key, known);
  }
  std::vector<at::Tensor> parts;
  for (const std::int64_t number : impl_->selected) {
    const Episode& episode = impl_->tables->episodes[static_cast<std::size_t>(number)];
    parts.push_back(found->second.narrow(0, episode.from, episode.length()));
  }
  return at::cat(parts);
}

}  // namespace thaw
