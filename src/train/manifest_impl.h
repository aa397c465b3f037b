// MANIFEST.json of a checkpoint: which files it consists of, and that they are what was written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace thaw {

struct ManifestInfo {
  std::int64_t step = 0;
  std::string plan_digest;
  std::string base_digest;
};

/// Lists every file of `folder` with size and SHA-256. Written last: a folder without it is no checkpoint.
void write_manifest(const std::filesystem::path& folder, const ManifestInfo& info);

/// One sentence per difference between the manifest and the folder; empty: all as written.
[[nodiscard]] std::vector<std::string> manifest_faults(const std::filesystem::path& folder);

}  // namespace thaw
