// The loop around the training step: when to log, save and evaluate, and when to stop.
#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "engine_impl.h"
#include "metrics_window_impl.h"
#include "run_writer_impl.h"
#include "thaw/freeze/plan.h"
#include "thaw/train/observer.h"
#include "thaw/train/options.h"
#include "thaw/train/task.h"

namespace thaw {

class Loop {
 public:
  /// `observers` hear everything, after those of the run folder and the terminal.
  Loop(const TrainOptions& options, const FreezePlan& plan, Engine& engine, RunWriter& writer,
       const std::vector<std::shared_ptr<TrainObserver>>& observers);

  FitResult run(TrainTask& task);

 private:
  void train(TrainTask& task);
  void after_step(TrainTask& task);
  void evaluate(TrainTask& task);
  void log(TrainTask& task);
  void save_at_interval();
  void save_at_end();
  [[nodiscard]] double epoch(const TrainTask& task) const;
  [[nodiscard]] std::int64_t samples_per_step() const { return options_.batch_size * options_.accumulation; }
  [[nodiscard]] RunInfo run_info() const;

  template <class... Arguments>
  void tell(void (TrainObserver::*event)(Arguments...), const std::type_identity_t<Arguments>&... arguments) {
    for (const auto& observer : observers_) ((*observer).*event)(arguments...);
  }

  const TrainOptions& options_;
  const FreezePlan& plan_;
  Engine& engine_;
  RunWriter& writer_;
  std::vector<std::shared_ptr<TrainObserver>> observers_;
  MetricsWindow window_;
  FitResult result_;
  std::int64_t evaluated_step_ = -1;
};

}  // namespace thaw
