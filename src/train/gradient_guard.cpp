#include "thaw/train/gradient_guard.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr std::int64_t kSkipped = 0;
constexpr std::int64_t kConsecutive = 1;
constexpr std::int64_t kLongest = 2;
/// How often an accelerator is waited for.
constexpr std::int64_t kAcceleratorInterval = 10;

}  // namespace

GradientGuard::GradientGuard(std::int64_t max_consecutive, at::Device device)
    : max_consecutive_(max_consecutive), counters_(at::zeros({3}, at::TensorOptions(at::kDouble).device(device))) {}

at::Tensor GradientGuard::judge(const at::Tensor& loss, const at::Tensor& norm, const at::Tensor& found_inf) {
  const at::NoGradGuard no_grad;
  at::Tensor bad = at::isfinite(loss).logical_and(at::isfinite(norm)).logical_not().to(at::kFloat);
  if (found_inf.defined()) bad = at::maximum(bad, found_inf.to(at::kFloat).reshape({}));
  const at::Tensor consecutive = (counters_[kConsecutive] + bad) * bad;
  const at::Tensor longest = at::maximum(counters_[kLongest], consecutive);
  counters_.copy_(at::stack({counters_[kSkipped] + bad, consecutive, longest}));
  return bad;
}

void GradientGuard::check(std::int64_t step) {
  if (!counters_.is_cpu() && step % kAcceleratorInterval != 0) return;
  const Counters now = counters();
  if (now.longest < max_consecutive_) return;
  throw CheckFailed(
      Problem{.where = fmt::format("training step {}", step),
              .expected = "a finite loss and gradient",
              .found = fmt::format("{} steps in a row without one ({} skipped in all)", now.longest, now.skipped),
              .fix = "Lower the learning rate, or look for a value in the data that is not finite; the last "
                     "checkpoint is intact."});
}

GradientGuard::Counters GradientGuard::counters() const {
  const at::Tensor host = counters_.cpu();
  const double* values = host.const_data_ptr<double>();
  return {.skipped = static_cast<std::int64_t>(values[kSkipped]),
          .consecutive = static_cast<std::int64_t>(values[kConsecutive]),
          .longest = static_cast<std::int64_t>(values[kLongest])};
}

void GradientGuard::load(const Counters& counters) {
  const std::vector<double> values = {static_cast<double>(counters.skipped), static_cast<double>(counters.consecutive),
                                      static_cast<double>(counters.longest)};
  counters_ = at::tensor(values, at::kDouble).to(counters_.device());
}

}  // namespace thaw
