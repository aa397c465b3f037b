#include "thaw/study/sweep.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "thaw/core/error.h"
#include "thaw/core/sha256.h"
#include "thaw/train/signals.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

const SweepFreeze& freeze_of(const SweepPlan& plan, const SweepPoint& point) {
  const auto found = std::find_if(plan.freezes.begin(), plan.freezes.end(), [&point](const SweepFreeze& freeze) {
    return freeze.label == point.freeze && freeze.pruning == point.pruning && freeze.plan.digest() == point.plan_digest;
  });
  if (found != plan.freezes.end()) return *found;
  throw MismatchError(
      Problem{.where = "point " + point.id, .expected = "a freeze of the sweep", .found = "'" + point.name() + "'"});
}

bool stop_was_asked() { return stop_signal() != 0; }

/// Trains points of a plan in this process.
class InTurn {
 public:
  InTurn(const SweepPlan& plan, SweepSubject& subject, fs::path heads, SweepRunOptions options)
      : plan_(plan), subject_(subject), heads_(std::move(heads)), options_(std::move(options)) {}

  bool operator()(std::span<const SweepPoint> points, const std::function<void(SweepResult)>& on_result) {
    const SignalScope signals;
    for (const SweepPoint& point : points) {
      if (stop_was_asked()) return false;
      std::optional<SweepResult> result = result_of(point);
      if (!result) return false;
      on_result(std::move(*result));
    }
    return true;
  }

 private:
  [[nodiscard]] std::optional<SweepResult> result_of(const SweepPoint& point) {
    prepare();
    const fs::path head = heads_ / point.id;
    std::optional<SweepResult> result = trained(point, head);
    const bool asks = result && !result->failed() && !options_.evaluator.command.empty();
    if (asks && !evaluate_point(options_.evaluator, head, stop_was_asked, *result)) result.reset();
    if (!options_.keep_heads || !result) remove_head(head);
    return result;
  }

  void prepare() {
    if (std::exchange(prepared_, true)) return;
    subject_.prepare(plan_.freezes);
  }

  std::optional<SweepResult> trained(const SweepPoint& point, const fs::path& head) {
    const SweepWatcher watcher = [this, &point](std::int64_t step, double loss) {
      if (options_.observer != nullptr) options_.observer->on_progress(point, step, loss);
    };
    const SweepFreeze& freeze = freeze_of(plan_, point);
    try {
      return subject_.train(point, freeze, head, watcher);
    } catch (const std::exception& error) {
      return SweepResult{.point = point,
                         .trainable_parameters = freeze.plan.elements(ParameterClass::trainable),
                         .cut = "none",
                         .error = error.what()};
    }
  }

  void remove_head(const fs::path& head) const {
    std::error_code ignored;
    fs::remove_all(head, ignored);
    fs::remove(heads_, ignored);  // only when nothing is left in it
  }

  const SweepPlan& plan_;
  SweepSubject& subject_;
  fs::path heads_;
  SweepRunOptions options_;
  bool prepared_ = false;
};

}  // namespace

SweepPlan sweep_plan(SweepSubject& subject, SweepGrid grid) {
  if (grid.learning_rates.empty()) grid.learning_rates = {subject.learning_rate()};
  return {.freezes = subject.freezes(grid),
          .learning_rates = grid.learning_rates,
          .draws = grid.draws,
          .seeds = grid.seeds,
          .steps = subject.steps(),
          .setting = sha256_hex(subject.setting().dump())};
}

PointRunner points_in_turn(const SweepPlan& plan, SweepSubject& subject, const fs::path& heads,
                           const SweepRunOptions& options) {
  return [runner = std::make_shared<InTurn>(plan, subject, heads, options)](
             std::span<const SweepPoint> points, const std::function<void(SweepResult)>& on_result) {
    return (*runner)(points, on_result);
  };
}

bool run_sweep(const SweepPlan& plan, SweepFolder& folder, const PointRunner& runner, SweepObserver* observer) {
  plan.validate();
  const SignalScope signals;
  while (true) {
    const std::vector<SweepPoint> pending = pending_points(plan, folder.results());
    if (pending.empty()) return true;
    const std::vector<SweepPoint> order = decided_points(plan, folder.results());
    if (observer != nullptr) observer->on_point(pending.front(), order.size() - pending.size(), order.size());
    const bool finished = runner(pending, [&](SweepResult result) {
      if (observer != nullptr) observer->on_result(result);
      folder.add(std::move(result), order);
    });
    if (!finished) return false;
  }
}

bool run_sweep(const SweepPlan& plan, SweepSubject& subject, SweepFolder& folder, const SweepRunOptions& options) {
  const PointRunner runner = points_in_turn(plan, subject, folder.root() / "heads", options);
  return run_sweep(plan, folder, runner, options.observer);
}

}  // namespace thaw
