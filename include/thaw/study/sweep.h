/// How many layers are enough: trains every point of a plan, one after another on one base, or in several processes.
///
///     auto subject = thaw::sweep_policy(policy, dataset, {.steps = 300, .eval_split = 0.25});
///     thaw::SweepGrid grid{.stacks = {{"language", {0, 1, 2, 4}}}, .learning_rates = {1e-4}, .seeds = {1, 2}};
///     thaw::SweepPlan plan = thaw::sweep_plan(*subject, grid);
///     thaw::SweepFolder folder("sweeps/drawer", subject->setting(), /*resume=*/false);
///     thaw::run_sweep(plan, *subject, folder, {});
///     auto pick = thaw::pick(thaw::sweep_candidates(folder.results(), "loss", plan.steps),
///                            thaw::SweepCost::parameters, "loss");
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "thaw/study/pick.h"
#include "thaw/study/sweep_evaluator.h"
#include "thaw/study/sweep_results.h"
#include "thaw/study/sweep_schedule.h"
#include "thaw/study/sweep_subject.h"

namespace thaw {

/// The plan of a grid: freezes resolved, the subject's rate where the grid has none, its steps and its setting. Rate
/// search, halving and the figure are the caller's to add. @throws UsageError as sweep_freezes
[[nodiscard]] SweepPlan sweep_plan(SweepSubject& subject, SweepGrid grid);

/// Those who watch.
class SweepObserver {
 public:
  virtual ~SweepObserver() = default;
  /// `done` of the `known` points so far have results (a search or a rung may add some).
  virtual void on_point(const SweepPoint& /*point*/, std::size_t /*done*/, std::size_t /*known*/) {}
  virtual void on_progress(const SweepPoint& /*point*/, std::int64_t /*step*/, double /*loss*/) {}
  virtual void on_result(const SweepResult& /*result*/) {}
};

struct SweepRunOptions {
  SweepEvaluator evaluator;
  bool keep_heads = false;  ///< heads/<id>/head.safetensors of every point stay
  SweepObserver* observer = nullptr;
};

/// Trains points and gives each result as soon as it is there, in any order. False: a signal stopped it.
using PointRunner =
    std::function<bool(std::span<const SweepPoint> points, const std::function<void(SweepResult)>& on_result)>;

/// Points one after another on `subject`, in this process. A point that cannot be trained has an error for a result,
/// and the others go on. `plan` and `subject` must outlive it; the plan's freezes are told to subject.prepare().
[[nodiscard]] PointRunner points_in_turn(const SweepPlan& plan, SweepSubject& subject,
                                         const std::filesystem::path& heads, const SweepRunOptions& options);

/// Points in `jobs` processes at a time. A process that dies fails the point it was at; another takes the rest.
struct SweepJobs {
  std::int64_t jobs = 2;
  std::filesystem::path folder;  ///< for their points and results; made and removed
  /// Program and arguments of a process that trains the points of a file with sweep_worker().
  std::function<std::vector<std::string>(const std::filesystem::path& points)> command;
  std::map<std::string, std::string> environment;  ///< of the processes, such as OMP_NUM_THREADS
};
[[nodiscard]] PointRunner points_in_processes(SweepJobs jobs);

/// The other side: trains the points of `file` and leaves each result beside it. False: a signal stopped it.
/// @throws FormatError, IoError
bool sweep_worker(const std::filesystem::path& file, const PointRunner& runner);

/// Trains what `folder` lacks of the plan until nothing is left. False: a signal stopped it, and what was done stays.
/// @throws IoError, CheckFailed (the base moved)
bool run_sweep(const SweepPlan& plan, SweepFolder& folder, const PointRunner& runner,
               SweepObserver* observer = nullptr);
/// The same in this process.
bool run_sweep(const SweepPlan& plan, SweepSubject& subject, SweepFolder& folder, const SweepRunOptions& options);

}  // namespace thaw
