/// How the registry makes SmolVLA policies.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "thaw/core/json.h"
#include "thaw/models/registry.h"
#include "thaw/models/smolvla/config.h"

namespace thaw::smolvla {

/// The published model ("smolvla") or a small one with the same structure ("smolvla_tiny"). `name` must be one of them.
[[nodiscard]] SmolVLAConfig named_config(const std::string& name);

/// config.json with the vlm_config.json beside it where there is one.
[[nodiscard]] SmolVLAConfig read_config(const Json& config, const std::filesystem::path& file);

/// Layout of config.json in `folder`, with the dtypes of model.safetensors where that is there too.
[[nodiscard]] ModelLayout folder_layout(const SmolVLAConfig& config, const std::filesystem::path& folder,
                                        InitialDtypes dtypes);

[[nodiscard]] std::shared_ptr<Policy> load(const std::filesystem::path& folder, const Json& config,
                                           const LoadOptions& options);

[[nodiscard]] std::shared_ptr<Policy> init(SmolVLAConfig config, const InitOptions& options);

}  // namespace thaw::smolvla
