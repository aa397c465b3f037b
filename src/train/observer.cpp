#include "thaw/train/observer.h"

#include <ATen/ATen.h>

namespace thaw {

double StepReport::loss() const { return loss_value.item<double>(); }
double StepReport::grad_norm() const { return grad_norm_value.item<double>(); }
bool StepReport::skipped() const { return skipped_value.item<double>() != 0.0; }

ExitCode FitResult::exit_code() const noexcept {
  switch (stopped_by) {
    case StopReason::interrupted:
      return ExitCode::interrupted;
    case StopReason::terminated:
      return ExitCode::terminated;
    case StopReason::finished:
      break;
  }
  return ExitCode::ok;
}

}  // namespace thaw
