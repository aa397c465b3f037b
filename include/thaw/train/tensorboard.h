/// A TensorBoard event file, written without protobuf: TFRecord frames (length, masked CRC-32C, payload, masked
/// CRC-32C) around hand-encoded Event messages (tensorboard/compat/proto/event.proto).
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "thaw/train/observer.h"

namespace thaw {

/// CRC-32C (Castagnoli) of the bytes, and TFRecord's masking of it: rotate right by 15, add 0xa282ead8.
[[nodiscard]] std::uint32_t crc32c(std::string_view bytes);
[[nodiscard]] std::uint32_t masked_crc32c(std::string_view bytes);
/// One TFRecord frame.
[[nodiscard]] std::string tf_record(std::string_view payload);
/// Event messages.
[[nodiscard]] std::string version_event(double wall_time);
[[nodiscard]] std::string scalar_event(double wall_time, std::int64_t step, std::string_view tag, float value);

class TensorBoardFile final : public TrainObserver {
 public:
  /// Creates <folder>/events.out.tfevents.<seconds>.<host>.<process>. @throws IoError
  explicit TensorBoardFile(const std::filesystem::path& folder);
  void on_log(const LogRecord& record) override;
  void on_evaluation(std::int64_t step, const EvaluationResult& result) override;
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  void scalar(std::int64_t step, std::string_view tag, double value);
  std::filesystem::path path_;
  std::ofstream out_;
};

}  // namespace thaw
