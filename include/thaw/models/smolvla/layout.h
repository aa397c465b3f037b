/// SmolVLA as data: every tensor of its model.safetensors and its line of stages, from the configuration alone.
#pragma once

#include "thaw/models/initial_dtypes.h"
#include "thaw/models/smolvla/config.h"
#include "thaw/policy/layout.h"

namespace thaw {

/// Parameters in LeRobot's registration order with LeRobot's freezing flags, the stacks "vision", "language" and
/// "expert", and the line of stages. Allocates no weights. @throws UsageError from config.validate()
[[nodiscard]] ModelLayout smolvla_layout(const SmolVLAConfig& config, InitialDtypes dtypes = InitialDtypes::published);

}  // namespace thaw
