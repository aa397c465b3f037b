#include <fmt/format.h>

#include <set>

#include "manifest_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/core/sha256.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/version.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr const char* kManifestName = "MANIFEST.json";

std::set<std::string> file_names(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != kManifestName) names.insert(entry.path().filename().string());
  }
  return names;
}

/// SHA-256 of the manifest without its own "digest" member: an edited manifest is noticed as well.
std::string own_digest(Json manifest) {
  manifest.erase("digest");
  return sha256_hex(manifest.dump());
}

std::vector<std::string> faults_of_file(const fs::path& file, const Json& entry, const std::string& where) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return {fmt::format("{} is missing", file.string())};
  const auto bytes = json_field<std::int64_t>(entry, "bytes", where);
  const auto found_bytes = static_cast<std::int64_t>(fs::file_size(file));
  if (found_bytes != bytes) {
    return {fmt::format("{} has {} bytes, the manifest says {}", file.string(), found_bytes, bytes)};
  }
  const auto expected = json_field<std::string>(entry, "sha256", where);
  const std::string found = sha256_file(file);
  if (found != expected)
    return {fmt::format("{} has SHA-256 {}, the manifest says {}", file.string(), found, expected)};
  return {};
}

std::vector<std::string> faults_of_manifest(const Json& manifest, const std::string& where) {
  const auto schema = json_field<std::int64_t>(manifest, "schema_version", where);
  if (schema != kCheckpointSchemaVersion) {
    return {fmt::format("{} has schema version {}, this thaw reads {}", where, schema, kCheckpointSchemaVersion)};
  }
  if (json_field<std::string>(manifest, "digest", where) != own_digest(manifest)) {
    return {fmt::format("{} was edited: its own digest does not match", where)};
  }
  return {};
}

std::vector<std::string> check(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  const std::string where = path.string();
  const Json manifest = read_json(path);
  std::vector<std::string> faults = faults_of_manifest(manifest, where);
  if (!faults.empty()) return faults;
  const Json files = json_field<Json>(manifest, "files", where);
  std::set<std::string> unlisted = file_names(folder);
  for (const auto& item : files.items()) {
    const std::vector<std::string> found =
        faults_of_file(resolve_beneath(folder, item.key(), where), item.value(), where + ": " + item.key());
    faults.insert(faults.end(), found.begin(), found.end());
    unlisted.erase(item.key());
  }
  for (const std::string& name : unlisted)
    faults.push_back(fmt::format("{} is not in the manifest", (folder / name).string()));
  return faults;
}

}  // namespace

void write_manifest(const fs::path& folder, const ManifestInfo& info) {
  Json files = Json::object();
  for (const std::string& name : file_names(folder)) {
    files[name] = {{"bytes", fs::file_size(folder / name)}, {"sha256", sha256_file(folder / name)}};
  }
  Json manifest = {{"schema_version", kCheckpointSchemaVersion},
                   {"thaw_version", kThawVersion},
                   {"step", info.step},
                   {"plan_digest", info.plan_digest},
                   {"base_digest", info.base_digest},
                   {"files", std::move(files)}};
  manifest["digest"] = own_digest(manifest);
  write_text_atomic(folder / kManifestName, manifest.dump(2) + "\n");
}

std::vector<std::string> manifest_faults(const fs::path& folder) {
  try {
    return check(folder);
  } catch (const Error& error) {
    return {error.what()};
  }
}

}  // namespace thaw
