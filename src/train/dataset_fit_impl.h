// How the keys and widths of a dataset meet those of a policy.
#pragma once

#include <string>

#include "thaw/data/dataset.h"
#include "thaw/policy/policy.h"

namespace thaw {

/// Policy key of a dataset key, through the rename map of the policy's preprocessor.
[[nodiscard]] std::string policy_key(const Policy& policy, const std::string& dataset_key);

/// @throws MismatchError when state or action have another width than the policy was made for
void require_widths(const Policy& policy, const LeRobotDataset& dataset);

/// The statistics under the policy's keys.
[[nodiscard]] Statistics renamed(const Policy& policy, const Statistics& statistics);

}  // namespace thaw
