/// Checkpoints: everything needed to go on bit for bit, committed by one rename, verified before a tensor is used.
///
///     checkpoints/000200/head.safetensors       trained tensors (train/head.h)
///                        optimizer.safetensors  state/<name>/{exp_avg,exp_avg_sq,step}
///                        ema.safetensors        averages by name; only when EMA is on
///                        state.json             step, counters, loss scale, what was checked
///                        MANIFEST.json          size and SHA-256 of every file, plan and base digest, its own digest
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/train/gradient_guard.h"
#include "thaw/train/gradients.h"
#include "thaw/train/head.h"
#include "thaw/train/precision.h"

namespace thaw {

inline constexpr int kCheckpointSchemaVersion = 1;

/// state.json
struct TrainingState {
  std::int64_t step = 0;
  std::uint64_t seed = 0;
  std::int64_t batch_size = 0;
  std::int64_t accumulation = 1;
  std::int64_t draws = 1;
  std::string image_transforms = "none";  ///< of the pictures trained on, as ImageTransformsOptions::text() has them
  std::string precision;
  std::string plan_digest;
  std::string base_digest;
  GradientGuard::Counters guard;
  LossScaler::State scaler;
  std::map<std::string, GradientRecord::Flags> gradients;  ///< by trainable parameter
  std::vector<std::string> resting;       ///< trainable, but not in the last step (TrainOptions::freeze_schedule)
  std::vector<std::string> frozen_moved;  ///< frozen tensors that changed in memory: must be empty
  std::vector<std::string> modules_not_in_eval;   ///< frozen modules found in train mode: must be empty
  std::vector<std::string> frozen_with_gradient;  ///< must be empty

  [[nodiscard]] Json to_json() const;
  /// @throws FormatError naming the field
  [[nodiscard]] static TrainingState from_json(const Json& json, const std::string& where);
};

struct Checkpoint {
  std::filesystem::path folder;  ///< where it was read from
  TrainingState state;
  Head head;
  std::map<std::string, at::Tensor> optimizer;
  std::map<std::string, at::Tensor> ema;  ///< empty: EMA is off
};

/// Folder name of a step: "000200".
[[nodiscard]] std::string checkpoint_name(std::int64_t step);

/// Writes <checkpoints>/<name> whole or not at all. One that is there already (a resumed run that came by again) is
/// left when it is good and replaced when it is not. Returns the folder.
/// @throws IoError (also when the volume has less than 1.2 times the needed bytes free)
std::filesystem::path write_checkpoint(const std::filesystem::path& checkpoints, const Checkpoint& checkpoint);

/// Checks every file against the manifest, then reads them. @throws FormatError naming the file, both hashes; IoError
[[nodiscard]] Checkpoint read_checkpoint(const std::filesystem::path& folder);

/// The manifest check alone. Returns one sentence per fault; empty: good.
[[nodiscard]] std::vector<std::string> checkpoint_faults(const std::filesystem::path& folder);

/// The newest good checkpoint; a bad newer one is passed over with a warning that says why. nullopt when there is none.
[[nodiscard]] std::optional<Checkpoint> newest_checkpoint(const std::filesystem::path& checkpoints);

/// Steps that have a checkpoint folder, ascending (good or not).
[[nodiscard]] std::vector<std::int64_t> checkpoint_steps(const std::filesystem::path& checkpoints);

/// Renames checkpoints newer than `step` to "bad-<name>": on resume, what newest_checkpoint() passed over must not
/// count as one of those that are kept.
void set_aside_newer(const std::filesystem::path& checkpoints, std::int64_t step);

/// Removes all but the newest `keep` checkpoints (at least 2), and what interrupted saves left behind. Only while the
/// run folder is locked.
void rotate_checkpoints(const std::filesystem::path& checkpoints, std::int64_t keep);

}  // namespace thaw
