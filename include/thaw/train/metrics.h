/// metrics.jsonl: one JSON object per log window, evaluation and save.
///
///     {"kind":"train","step":10,"loss":…,"grad_norm":…,"learning_rate":…,"samples_per_second":…,"data_wait_share":…,
///     …}
///     {"kind":"evaluation","step":200,"loss":…,"action_mse":…,"samples":64}
///     {"kind":"save","step":200,"folder":"000200","bytes":…,"seconds":…}
#pragma once

#include <filesystem>
#include <fstream>

#include "thaw/train/observer.h"

namespace thaw {

class MetricsFile final : public TrainObserver {
 public:
  /// Appends. @throws IoError
  explicit MetricsFile(std::filesystem::path file);
  void on_log(const LogRecord& record) override;
  void on_evaluation(std::int64_t step, const EvaluationResult& result) override;
  void on_save(const SaveReport& report) override;

 private:
  void write_line(const std::string& line);
  std::filesystem::path file_;
  std::ofstream out_;
};

/// Removes what a run wrote after the checkpoint it is resumed from, so that no step is told twice.
void forget_metrics_after(const std::filesystem::path& file, std::int64_t step);

}  // namespace thaw
