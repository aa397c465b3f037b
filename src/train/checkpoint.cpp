#include "thaw/train/checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "manifest_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/log.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr const char* kHeadFile = "head.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kEmaFile = "ema.safetensors";
constexpr const char* kStateFile = "state.json";

std::uint64_t bytes_of(const std::map<std::string, at::Tensor>& tensors) {
  std::uint64_t bytes = 0;
  for (const auto& entry : tensors) bytes += entry.second.nbytes();
  return bytes;
}

void require_space(const fs::path& folder, const Checkpoint& checkpoint) {
  constexpr double kMargin = 1.2;
  constexpr std::uint64_t kHeaders = std::uint64_t{1} << 20;
  const std::uint64_t payload =
      bytes_of(checkpoint.head.tensors) + bytes_of(checkpoint.optimizer) + bytes_of(checkpoint.ema) + kHeaders;
  const auto needed = static_cast<std::uint64_t>(kMargin * static_cast<double>(payload));
  const std::uint64_t available = free_bytes(folder);
  if (available >= needed) return;
  throw IoError(Problem{.where = folder.string(),
                        .expected = fmt::format("{} bytes free for a checkpoint", needed),
                        .found = fmt::format("{}", available),
                        .fix = "Free some space on this volume; the checkpoints that are there are intact."});
}

std::vector<NamedTensor> to_list(const std::map<std::string, at::Tensor>& tensors) {
  std::vector<NamedTensor> list;
  list.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) list.push_back({.name = name, .tensor = tensor.detach()});
  return list;
}

void write_files(const fs::path& folder, const Checkpoint& checkpoint) {
  write_head(folder / kHeadFile, checkpoint.head);
  write_safetensors(folder / kOptimizerFile, to_list(checkpoint.optimizer));
  if (!checkpoint.ema.empty()) write_safetensors(folder / kEmaFile, to_list(checkpoint.ema));
  write_text_atomic(folder / kStateFile, checkpoint.state.to_json().dump(2) + "\n");
  write_manifest(folder, {.step = checkpoint.state.step,
                          .plan_digest = checkpoint.state.plan_digest,
                          .base_digest = checkpoint.state.base_digest});
}

std::optional<std::int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || checkpoint_name(step) != name) return std::nullopt;
  return step;
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("{:06d}", step); }

fs::path write_checkpoint(const fs::path& checkpoints, const Checkpoint& checkpoint) {
  std::error_code error;
  fs::create_directories(checkpoints, error);
  if (error) throw IoError(Problem{.where = checkpoints.string(), .expected = "a folder", .found = error.message()});
  const fs::path target = checkpoints / checkpoint_name(checkpoint.state.step);
  const bool exists = fs::exists(target);
  if (exists && checkpoint_faults(target).empty()) return target;
  require_space(checkpoints, checkpoint);
  StagedDirectory staged(target);
  write_files(staged.path(), checkpoint);
  if (exists) fs::remove_all(target);  // a bad one: nothing is lost with it
  staged.commit();
  return target;
}

std::vector<std::string> checkpoint_faults(const fs::path& folder) { return manifest_faults(folder); }

Checkpoint read_checkpoint(const fs::path& folder) {
  const std::vector<std::string> faults = checkpoint_faults(folder);
  if (!faults.empty())
    throw FormatError(fmt::format("{}: not a good checkpoint: {}", folder.string(), fmt::join(faults, "; ")));
  const fs::path state = folder / kStateFile;
  Checkpoint checkpoint{.folder = folder,
                        .state = TrainingState::from_json(read_json(state), state.string()),
                        .head = read_head(folder / kHeadFile),
                        .optimizer = read_safetensors(folder / kOptimizerFile)};
  if (fs::exists(folder / kEmaFile)) checkpoint.ema = read_safetensors(folder / kEmaFile);
  return checkpoint;
}

std::vector<std::int64_t> checkpoint_steps(const fs::path& checkpoints) {
  std::vector<std::int64_t> steps;
  if (!fs::is_directory(checkpoints)) return steps;
  for (const auto& entry : fs::directory_iterator(checkpoints)) {
    if (const std::optional<std::int64_t> step = step_of(entry.path())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<Checkpoint> newest_checkpoint(const fs::path& checkpoints) {
  std::vector<std::int64_t> steps = checkpoint_steps(checkpoints);
  std::reverse(steps.begin(), steps.end());
  for (const std::int64_t step : steps) {
    try {
      return read_checkpoint(checkpoints / checkpoint_name(step));
    } catch (const Error& error) {
      log_warning(fmt::format("passing over a checkpoint: {}", error.what()));
    }
  }
  if (steps.empty()) return std::nullopt;
  throw FormatError(Problem{.where = checkpoints.string(),
                            .expected = "a checkpoint that equals its manifest",
                            .found = fmt::format("{} bad ones", steps.size()),
                            .fix = "See the warnings above; start a new run if none can be restored."});
}

void set_aside_newer(const fs::path& checkpoints, std::int64_t step) {
  for (const std::int64_t newer : checkpoint_steps(checkpoints)) {
    if (newer <= step) continue;
    const fs::path aside = checkpoints / ("bad-" + checkpoint_name(newer));
    fs::remove_all(aside);
    fs::rename(checkpoints / checkpoint_name(newer), aside);
  }
}

void rotate_checkpoints(const fs::path& checkpoints, std::int64_t keep) {
  remove_stale_temporaries(checkpoints);
  const std::vector<std::int64_t> steps = checkpoint_steps(checkpoints);
  const auto kept = static_cast<std::size_t>(std::max<std::int64_t>(keep, 2));
  if (steps.size() <= kept) return;
  const auto last = steps.end() - static_cast<std::ptrdiff_t>(kept);
  for (auto step = steps.begin(); step != last; ++step) fs::remove_all(checkpoints / checkpoint_name(*step));
}

}  // namespace thaw
