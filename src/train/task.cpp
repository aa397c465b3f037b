#include "thaw/train/task.h"

#include "thaw/core/error.h"

namespace thaw {
namespace {

[[noreturn]] void refuse(const char* where) {
  throw UsageError(Problem{.where = where,
                           .expected = "a task that overrides is_in_two_parts(), prepare() and loss_of() together",
                           .found = "one that gives its loss in one part"});
}

}  // namespace

StepInputs TrainTask::prepare(const MicroStep& /*micro_step*/) { refuse("TrainTask::prepare"); }

at::Tensor TrainTask::loss_of(StepInputs /*inputs*/) { refuse("TrainTask::loss_of"); }

}  // namespace thaw
