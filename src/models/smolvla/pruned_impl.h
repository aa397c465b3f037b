/// Taking blocks out of a SmolVLA policy.
#pragma once

#include <cstdint>
#include <string>

#include "thaw/models/smolvla/config.h"
#include "thaw/policy/policy.h"

namespace thaw::smolvla {

/// BlockStack::joined of the language model and the expert, which attends to it layer by layer.
inline const std::string kDepth = "depth";

/// After how many layers the expert's self and cross attention repeat; 1 when all layers are of one kind.
[[nodiscard]] std::int64_t attention_period(const SmolVLAConfig& config);

/// The configuration of the policy without `removed`. @throws UsageError as validate()
[[nodiscard]] SmolVLAConfig pruned_config(SmolVLAConfig config, const BlockLists& removed);

}  // namespace thaw::smolvla
