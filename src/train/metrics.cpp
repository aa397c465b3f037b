#include "thaw/train/metrics.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/core/log.h"

namespace thaw {
namespace {

/// JSON has no NaN.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

/// A line a killed process left unfinished, or one that is later than `step`, is not kept.
bool keep_line(std::string_view line, std::int64_t step, const std::string& where) {
  try {
    return json_field_or<std::int64_t>(parse_json(line, where), "step", 0, where) <= step;
  } catch (const FormatError&) {
    return false;
  }
}

}  // namespace

MetricsFile::MetricsFile(std::filesystem::path file) : file_(std::move(file)) {
  out_.open(file_, std::ios::app);
  if (!out_)
    throw IoError(Problem{.where = file_.string(), .expected = "a file to append to", .found = std::strerror(errno)});
}

void MetricsFile::write_line(const std::string& line) {
  out_ << line << '\n' << std::flush;
  if (out_) return;
  // A full disk must not end training: checkpoints decide that (train/trainer.h).
  log_warning(fmt::format("{}: cannot append ({})", file_.string(), std::strerror(errno)));
  out_.clear();
}

void MetricsFile::on_log(const LogRecord& record) {
  write_line(Json{{"kind", "train"},
                  {"step", record.step},
                  {"loss", number(record.loss)},
                  {"grad_norm", number(record.grad_norm)},
                  {"learning_rate", record.learning_rate},
                  {"epoch", record.epoch},
                  {"skipped_steps", record.skipped_steps},
                  {"seconds_per_step", record.seconds_per_step},
                  {"samples_per_second", record.samples_per_second},
                  {"data_wait_share", record.data_wait_share}}
                 .dump());
}

void MetricsFile::on_evaluation(std::int64_t step, const EvaluationResult& result) {
  Json line{{"kind", "evaluation"}, {"step", step}, {"loss", number(result.loss)}, {"samples", result.samples}};
  for (const auto& [name, value] : result.metrics) line[name] = number(value);
  write_line(line.dump());
}

void MetricsFile::on_save(const SaveReport& report) {
  write_line(Json{{"kind", "save"},
                  {"step", report.step},
                  {"folder", report.folder.filename().string()},
                  {"bytes", report.bytes},
                  {"seconds", report.seconds}}
                 .dump());
}

void forget_metrics_after(const std::filesystem::path& file, std::int64_t step) {
  if (!std::filesystem::exists(file)) return;
  const std::string text = read_text(file);
  std::string kept;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    if (end != std::string_view::npos && keep_line(line, step, file.string())) kept.append(line).push_back('\n');
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  if (kept != text) write_text_atomic(file, kept);
}

}  // namespace thaw
