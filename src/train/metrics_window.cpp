#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "metrics_window_impl.h"
#include "thaw/core/log.h"

namespace thaw {
namespace {

/// The values of a report field, read from the device in one go.
std::vector<float> read(const std::vector<StepReport>& reports, at::Tensor StepReport::*field) {
  std::vector<at::Tensor> values;
  values.reserve(reports.size());
  for (const StepReport& report : reports) values.push_back((report.*field).detach().to(at::kFloat).reshape({}));
  const at::Tensor host = at::stack(values).cpu();
  return {host.const_data_ptr<float>(), host.const_data_ptr<float>() + host.numel()};
}

double mean_of_kept(const std::vector<float>& values, const std::vector<float>& skipped) {
  double sum = 0.0;
  std::int64_t kept = 0;
  for (std::size_t index = 0; index < values.size(); ++index) {
    if (skipped[index] != 0.0F) continue;
    sum += values[index];
    ++kept;
  }
  return kept == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(kept);
}

std::string sample_list(const std::vector<std::int64_t>& samples) {
  constexpr std::size_t kShown = 16;
  if (samples.size() <= kShown) return fmt::format("{}", fmt::join(samples, ", "));
  const std::vector<std::int64_t> first(samples.begin(), samples.begin() + kShown);
  return fmt::format("{}, … ({} in all)", fmt::join(first, ", "), samples.size());
}

void tell_skipped(const std::vector<StepReport>& reports, const std::vector<float>& skipped) {
  for (std::size_t index = 0; index < reports.size(); ++index) {
    if (skipped[index] == 0.0F) continue;
    log_warning(fmt::format("step {} was skipped: its loss or gradient is not finite (samples {})", reports[index].step,
                            sample_list(reports[index].samples)));
  }
}

}  // namespace

void MetricsWindow::restart(double data_wait) {
  reports_.clear();
  begun_ = std::chrono::steady_clock::now();
  left_out_ = 0.0;
  data_wait_ = data_wait;
}

LogRecord MetricsWindow::flush(double data_wait, std::int64_t samples_per_step) {
  const std::vector<float> skipped = read(reports_, &StepReport::skipped_value);
  tell_skipped(reports_, skipped);
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count();
  const double seconds = std::max(elapsed - left_out_, 1e-9);
  const auto steps = static_cast<double>(reports_.size());
  LogRecord record{.step = reports_.back().step,
                   .loss = mean_of_kept(read(reports_, &StepReport::loss_value), skipped),
                   .grad_norm = mean_of_kept(read(reports_, &StepReport::grad_norm_value), skipped),
                   .learning_rate = reports_.back().learning_rate,
                   .seconds_per_step = seconds / steps,
                   .samples_per_second = steps * static_cast<double>(samples_per_step) / seconds,
                   .data_wait_share = std::clamp((data_wait - data_wait_) / seconds, 0.0, 1.0)};
  restart(data_wait);
  return record;
}

}  // namespace thaw
