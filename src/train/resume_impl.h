// Whether a checkpoint may be continued by this run.
#pragma once

#include "thaw/freeze/plan.h"
#include "thaw/policy/layout.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/options.h"
#include "thaw/train/run_folder.h"

namespace thaw {

/// Compares with the plan.json of the run. @throws MismatchError listing the tensors that are planned differently, or
/// whose base content differs
void require_same_plan(const FreezePlan& plan, const RunFolder& folder);

/// @throws MismatchError for an adapter that is scaled otherwise: its shapes do not tell
void require_same_adapters(const std::vector<Adapter>& saved, const std::vector<Adapter>& now);

/// Options that decide which samples come when: a difference is legal but not bit for bit, so it is told.
void warn_of_changed_options(const TrainingState& state, const TrainOptions& options, Precision precision);

}  // namespace thaw
