/// pi0 and pi0.5 as data: every tensor of their model.safetensors and their line of stages, from the configuration
/// alone.
#pragma once

#include "thaw/models/initial_dtypes.h"
#include "thaw/models/pi0/config.h"
#include "thaw/policy/layout.h"

namespace thaw {

/// Parameters in LeRobot's registration order with LeRobot's freezing flags, the stacks "vision", "language" and
/// "expert", and the line of stages. Allocates no weights. @throws UsageError from config.validate()
[[nodiscard]] ModelLayout pi0_layout(const Pi0Config& config, InitialDtypes dtypes = InitialDtypes::published);

}  // namespace thaw
