#include "thaw/train/progress_observer.h"

#include <fmt/format.h>

#include "thaw/core/log.h"

namespace thaw {

std::string progress_detail(const LogRecord& record) {
  std::string text =
      fmt::format("loss {:.4f}  lr {:.2e}  grad {:.3g}  {:.1f} samples/s  data {:.0f}%", record.loss,
                  record.learning_rate, record.grad_norm, record.samples_per_second, 100.0 * record.data_wait_share);
  if (record.skipped_steps > 0) text += fmt::format("  skipped {}", record.skipped_steps);
  return text;
}

void ProgressObserver::on_start(const RunInfo& info) {
  progress_ =
      std::make_unique<Progress>(ProgressOptions{.label = "train", .total = info.steps, .start = info.first_step});
}

void ProgressObserver::on_step(const StepReport& report) {
  if (progress_) progress_->update(report.step, detail_);
}

void ProgressObserver::on_log(const LogRecord& record) {
  detail_ = progress_detail(record);
  if (progress_) progress_->update(record.step, detail_);
}

void ProgressObserver::on_evaluation(std::int64_t step, const EvaluationResult& result) {
  std::string text = fmt::format("step {}: held-out loss {:.4f}", step, result.loss);
  for (const auto& [name, value] : result.metrics) text += fmt::format(", {} {:.4g}", name, value);
  log_info(text + fmt::format(" ({} samples)", result.samples));
}

void ProgressObserver::on_save(const SaveReport& report) {
  constexpr double kMegabyte = 1e6;
  log_info(fmt::format("step {}: saved {} ({:.1f} MB in {:.1f} s)", report.step, report.folder.string(),
                       static_cast<double>(report.bytes) / kMegabyte, report.seconds));
}

void ProgressObserver::on_end(const FitResult& /*result*/) {
  if (progress_) progress_->finish(detail_);
}

}  // namespace thaw
