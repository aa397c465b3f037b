/// How the registry makes pi0 and pi0.5 policies.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "thaw/core/json.h"
#include "thaw/models/pi0/config.h"
#include "thaw/models/registry.h"

namespace thaw::pi0 {

/// The published models ("pi0", "pi05") or small ones with the same structure ("pi0_tiny", "pi05_tiny"). `name` must be
/// one of them.
[[nodiscard]] Pi0Config named_config(const std::string& name);

/// config.json with the vlm_config.json beside it where there is one, and what the weights beside it say of the
/// embedding.
[[nodiscard]] Pi0Config read_config(const Json& config, const std::filesystem::path& file);

/// Layout of config.json in `folder`, with the dtypes of the weights where they are there too.
[[nodiscard]] ModelLayout folder_layout(const Pi0Config& config, const std::filesystem::path& folder,
                                        InitialDtypes dtypes);

[[nodiscard]] std::shared_ptr<Policy> load(const std::filesystem::path& folder, const Json& config,
                                           const LoadOptions& options);

[[nodiscard]] std::shared_ptr<Policy> init(Pi0Config config, const InitOptions& options);

}  // namespace thaw::pi0
