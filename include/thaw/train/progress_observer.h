/// The progress line: loss, learning rate, gradient norm, samples per second, share of time spent waiting for data.
#pragma once

#include <memory>
#include <string>

#include "thaw/core/progress.h"
#include "thaw/train/observer.h"

namespace thaw {

/// "loss 0.1234  lr 1.00e-04  grad 0.52  31.2 samples/s  data 3%"
[[nodiscard]] std::string progress_detail(const LogRecord& record);

class ProgressObserver final : public TrainObserver {
 public:
  void on_start(const RunInfo& info) override;
  void on_step(const StepReport& report) override;
  void on_log(const LogRecord& record) override;
  void on_evaluation(std::int64_t step, const EvaluationResult& result) override;
  void on_save(const SaveReport& report) override;
  void on_end(const FitResult& result) override;

 private:
  std::unique_ptr<Progress> progress_;
  std::string detail_;
};

}  // namespace thaw
