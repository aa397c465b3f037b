/// What came out of a sweep, one line of results.jsonl for each training.
///
///     {"id":"3f…","why":"full","freeze":"language=2","blocks":{"language":2},"plan_digest":…,"learning_rate":0.001,
///      "draws":1,"seed":1000,"steps":300,"held_out":{"loss":…,"samples":64,"action_mse":…,
///      "action_mse_by_dimension":[…],…},"training_loss":…,"skipped_steps":0,"trainable_parameters":…,
///      "planned_peak_bytes":…,"planned_step_flops":…,"head_bytes":…,"cut":"vision","evaluator":{…},"error":"…",
///      "times":{"seconds":…,"samples_per_second":…,"peak_resident_bytes":…}}
///
/// A point of a pruned base has "pruned":2,"removed":{"expert":[1,2],"language":[1,2]} behind its "blocks".
/// Everything but "times" is a function of what the line's id stands for: a sweep that was killed and resumed ends with
/// the same file. What a training has no figure for is absent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/study/sweep_grid.h"
#include "thaw/train/task.h"

namespace thaw {

/// What another run of the same training measures differently.
struct SweepTimes {
  double seconds = 0.0;             ///< of the whole point: making ready, training, held-out evaluation
  double samples_per_second = 0.0;  ///< while training
  /// The most the process held in memory meanwhile, what sweeping keeps for all points included; absent where the
  /// system does not tell.
  std::optional<std::int64_t> peak_resident_bytes;
};

struct SweepResult {
  SweepPoint point;
  std::optional<EvaluationResult> held_out;
  std::optional<double> training_loss;  ///< mean over the last log window
  std::int64_t skipped_steps = 0;
  std::int64_t trainable_parameters = 0;
  std::optional<std::int64_t> planned_peak_bytes;  ///< freeze/memory_plan.h
  std::optional<double> planned_step_flops;        ///< freeze/cost_model.h
  std::optional<std::int64_t> head_bytes;          ///< of its head.safetensors
  std::string cut;                                 ///< of the prefix cache, "none" without
  Json evaluator;                                  ///< what --evaluator said; null: it was not asked
  std::string error;                               ///< why it has no figures, or not all; empty: nothing failed
  SweepTimes times;

  [[nodiscard]] bool failed() const noexcept { return !error.empty(); }
  /// A figure by name: "loss", a held-out metric, or "evaluator.NAME"; with "-" before it, its negative (for a figure
  /// of which more is better). nullopt when the result has none, or one that is not finite.
  [[nodiscard]] std::optional<double> figure(const std::string& name) const;
  [[nodiscard]] Json to_json() const;
  /// @throws FormatError naming the field
  [[nodiscard]] static SweepResult from_json(const Json& json, const std::string& where);
};

/// The result of a point; null when there is none.
[[nodiscard]] const SweepResult* find_result(std::span<const SweepResult> results, const std::string& id);

/// The folder of a sweep, held by this process alone while the object lives.
///
///     sweep/results.jsonl  sweep.json  config.toml  report.html
///           heads/<id>/head.safetensors           with keep_heads
class SweepFolder {
 public:
  /// Locks `root`, creating it for a new sweep, and reads what is done. Results with an error are left out: they are
  /// tried again. `setting`: everything that all points share, compared with what the folder's sweep was begun with.
  /// `config`: what was asked, written to config.toml; empty: nothing is.
  /// @throws UsageError when `resume` is false and it holds a sweep already, or true and it holds none; MismatchError
  /// naming what differs in the setting; IoError, FormatError
  SweepFolder(std::filesystem::path root, const Json& setting, bool resume, const std::string& config = {});

  [[nodiscard]] const std::vector<SweepResult>& results() const noexcept { return results_; }
  /// Adds one and replaces results.jsonl, whole or not at all. `order`: ids in the order of the lines; results that are
  /// not in it follow in the order they were added. @throws IoError
  void add(SweepResult result, std::span<const SweepPoint> order);

  [[nodiscard]] const std::filesystem::path& root() const noexcept { return root_; }
  [[nodiscard]] std::filesystem::path file() const { return root_ / "results.jsonl"; }
  [[nodiscard]] std::filesystem::path head(const std::string& id) const { return root_ / "heads" / id; }

 private:
  void require_same_setting(const Json& setting) const;

  std::filesystem::path root_;
  std::unique_ptr<DirectoryLock> lock_;
  std::vector<SweepResult> results_;
};

/// results.jsonl of a sweep's folder. @throws IoError, FormatError
[[nodiscard]] std::vector<SweepResult> read_sweep_results(const std::filesystem::path& file);

}  // namespace thaw
