/// Everything a training run can be told, with LeRobot's defaults where LeRobot has one.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/cache/prefix_cache.h"
#include "thaw/data/image_transforms.h"
#include "thaw/freeze/cut.h"

namespace thaw {

/// automatic: bf16 where the device multiplies it natively (tensor/device.h), else fp32.
enum class Precision { automatic, fp32, bf16, fp16 };

enum class ScheduleKind {
  cosine,    ///< LeRobot's cosine_decay_with_warmup
  constant,  ///< warm-up, then the peak rate
  linear,    ///< warm-up, then a straight line down to the decay rate
};

/// Whether training steps are recorded on the device and played back (tensor/device_graph.h): one launch for the
/// suffix' forward pass, backward and update.
enum class CudaGraphs {
  automatic,  ///< on a CUDA device, where the run allows it
  on,
  off,
};

/// "auto", "on", "off". @throws UsageError for another word
[[nodiscard]] CudaGraphs parse_cuda_graphs(std::string_view text);
/// "auto", "fp32", "bf16", "fp16". @throws UsageError for another word
[[nodiscard]] Precision parse_precision(std::string_view text);
[[nodiscard]] std::string_view precision_name(Precision precision);
/// "cosine", "constant", "linear". @throws UsageError for another word
[[nodiscard]] ScheduleKind parse_schedule_kind(std::string_view text);
[[nodiscard]] std::string_view schedule_kind_name(ScheduleKind kind);

/// A peak learning rate of its own for the parameters whose full name matches a glob.
struct RateRule {
  std::string pattern;
  double learning_rate = 0.0;
};

/// AdamW. What is not given comes from the policy's training preset.
struct OptimizerOptions {
  std::optional<double> learning_rate;  ///< peak
  std::optional<double> beta1;
  std::optional<double> beta2;
  std::optional<double> eps;
  std::optional<double> weight_decay;  ///< decoupled; applied to every trainable tensor, as LeRobot does
  double layer_decay = 1.0;            ///< block i of n gets the rate times layer_decay^(n - 1 - i)
  std::vector<RateRule> rates;         ///< later rules win; layer_decay does not apply to what they match
};

/// What is not given comes from the policy's training preset.
struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::cosine;
  std::optional<std::int64_t> warmup_steps;
  std::optional<std::int64_t> decay_steps;
  std::optional<double> decay_learning_rate;
  bool auto_scale = true;  ///< a run shorter than decay_steps shortens warm-up and decay in proportion, as LeRobot does
};

/// Exponential moving average of the trained tensors.
struct EmaOptions {
  bool enable = false;
  std::optional<double> decay;  ///< fixed; absent: 1 - (1 + step)^-power, at most max_decay (LeRobot's warm-up)
  double power = 0.75;
  double max_decay = 0.9999;
};

class FreezeSchedule;  // freeze/freeze_schedule.h
class SharedCaches;    // train/shared_caches.h

/// The frozen prefix of a policy: how it is computed, and what of it is kept.
struct PrefixOptions {
  CacheCut cache = CacheCut::none;  ///< what is computed once per frame and kept
  CacheOptions store{.memory_bytes = std::int64_t{2} << 30, .disk_bytes = std::int64_t{100} << 30};
  /// Samples that go through the frozen prefix at a time; 0: one when there is a cache, so that an entry depends on its
  /// frame alone, else one where a sample keeps the processor busy by itself, else the whole batch. Frozen stages
  /// between a cut and what trains follow it only when it is given, and take the whole batch otherwise.
  std::int64_t batch_size = 0;
  double check = 0.0;  ///< share of the entries found that are computed again and compared; a difference ends training
  std::optional<std::size_t> deepest_stage;  ///< the cut lies at or before this stage of the line, whatever the freeze
                                             ///< allows; absent: as deep as it does
  /// Weights that left memory because a full cache has no use for them are read again when the training is over. False:
  /// the policy is left without them, each value a NaN; for programs that end with the training.
  bool weights_return = true;
  std::shared_ptr<SharedCaches> shared;  ///< where trainings of one process find each other's caches; null: own ones
};

struct TrainOptions {
  std::int64_t steps = 100'000;  ///< optimizer steps, counted from the start of the run (a resumed run goes on to here)
  std::int64_t batch_size = 8;   ///< samples of one micro-batch
  std::int64_t accumulation = 1;  ///< micro-batches of one optimizer step
  std::uint64_t seed = 1000;
  std::int64_t draws = 1;  ///< noise draws of every sample in a step; they share its prefix, and the loss is their mean
  PrefixOptions prefix;
  ImageTransformsOptions image_transforms;  ///< of the pictures trained on; held-out ones stay as recorded
  bool checkpoint_activations = false;      ///< stages under grad keep their inputs alone and run again for backward
  int workers = 2;                          ///< loader threads; 0 reads on the training thread
  Precision precision = Precision::automatic;
  CudaGraphs cuda_graph = CudaGraphs::automatic;  ///< needs accumulation 1 and no moving average
  std::optional<at::Device> device;               ///< absent: CUDA when a device answers, else CPU

  /// What trains when; null: the plan, all the time. The plan of the run must be its whole(). Excludes cuda_graph on.
  std::shared_ptr<const FreezeSchedule> freeze_schedule;

  OptimizerOptions optimizer;
  std::optional<double> grad_clip_norm;  ///< total norm; 0 switches clipping off; absent: the policy's preset
  ScheduleOptions schedule;
  EmaOptions ema;
  std::int64_t max_consecutive_skips = 10;  ///< steps with a non-finite loss or gradient before training stops

  std::filesystem::path output;      ///< run folder; empty: nothing is written
  bool resume = false;               ///< go on from the newest good checkpoint in `output`
  std::string config_text;           ///< written to <output>/config.toml: what was asked, complete
  std::int64_t save_every = 20'000;  ///< steps; 0: only at the end
  std::int64_t keep_last = 3;        ///< checkpoints kept, at least 2
  std::int64_t log_every = 10;       ///< steps between lines of metrics.jsonl and TensorBoard (means over the window)
  bool tensorboard = true;           ///< write an event file into `output`
  bool quiet = false;                ///< no progress line

  std::int64_t eval_every = 0;  ///< steps between evaluations; 0: before the first and after the last step only
  double eval_split = 0.0;      ///< share of the episodes of every task held out (data/episode_split.h)
  std::vector<std::int64_t> eval_episodes;  ///< held-out episodes by number; excludes eval_split
  std::int64_t eval_samples = 64;           ///< frames evaluated at most, spread evenly; 0: all

  std::map<std::string, std::string> rename_map;  ///< dataset key -> policy key; empty: the checkpoint's own
  bool allow_missing_cameras = false;             ///< train although a camera of the policy is not in the dataset

  /// @throws UsageError naming the field, its value and the range
  void validate() const;
};

}  // namespace thaw
