/// Statistics as the dataset brings them.
#pragma once

#include <filesystem>

#include "info_impl.h"
#include "thaw/policy/statistics.h"

namespace thaw::lerobot {

/// v3.0: meta/stats.json. v2.1: meta/episodes_stats.jsonl, aggregated over episodes as LeRobot does at load. Empty when
/// the file is absent. float64, rank of the file's lists (at least 1); booleans count as 0 and 1. @throws FormatError
[[nodiscard]] Statistics read_stored_statistics(const std::filesystem::path& root, const DatasetInfo& info);

}  // namespace thaw::lerobot
