/// What a run tells those who watch it: the progress line, metrics.jsonl, TensorBoard, a user's own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "thaw/core/error.h"
#include "thaw/train/task.h"

namespace thaw {

struct RunInfo {
  std::int64_t first_step = 0;  ///< 0, or where a resumed run goes on
  std::int64_t steps = 0;
  std::int64_t samples_per_step = 0;
  std::int64_t trainable_elements = 0;
  std::filesystem::path output;  ///< empty: nothing is written
};

/// One optimizer step. The values lie on the device and are read on demand: on CUDA, asking every step costs a
/// synchronisation.
struct StepReport {
  std::int64_t step = 0;              ///< number of the step, from 1
  double learning_rate = 0.0;         ///< base rate, before per-group factors
  std::vector<std::int64_t> samples;  ///< identities of the samples used, in order
  at::Tensor loss_value;              ///< () float32: mean over the micro-batches
  at::Tensor grad_norm_value;         ///< () float32: total norm before clipping, unscaled
  at::Tensor skipped_value;           ///< () float32: 1 when the step was skipped

  [[nodiscard]] double loss() const;
  [[nodiscard]] double grad_norm() const;
  [[nodiscard]] bool skipped() const;
};

/// Means over the steps since the last record (TrainOptions::log_every).
struct LogRecord {
  std::int64_t step = 0;
  double loss = 0.0;           ///< of the steps that were not skipped; NaN when all were
  double grad_norm = 0.0;      ///< likewise
  double learning_rate = 0.0;  ///< of the last step
  double seconds_per_step = 0.0;
  double samples_per_second = 0.0;
  double data_wait_share = 0.0;    ///< of the wall time, 0..1
  double epoch = 0.0;              ///< passes over the data so far; 0 when unknown
  std::int64_t skipped_steps = 0;  ///< since the start of the run
};

struct SaveReport {
  std::int64_t step = 0;
  std::filesystem::path folder;
  std::uint64_t bytes = 0;
  double seconds = 0.0;
};

enum class StopReason { finished, interrupted, terminated };

struct FitResult {
  std::int64_t step = 0;  ///< steps done since the start of the run
  std::int64_t skipped_steps = 0;
  StopReason stopped_by = StopReason::finished;
  double seconds = 0.0;                        ///< of this call
  std::optional<double> loss;                  ///< mean of the last log window
  std::optional<EvaluationResult> evaluation;  ///< the last one
  std::filesystem::path checkpoint;            ///< the last one written
  /// ok, interrupted (130) or terminated (143).
  [[nodiscard]] ExitCode exit_code() const noexcept;
};

class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void on_start(const RunInfo& /*info*/) {}
  virtual void on_step(const StepReport& /*report*/) {}
  virtual void on_log(const LogRecord& /*record*/) {}
  virtual void on_evaluation(std::int64_t /*step*/, const EvaluationResult& /*result*/) {}
  virtual void on_save(const SaveReport& /*report*/) {}
  virtual void on_end(const FitResult& /*result*/) {}
};

}  // namespace thaw
