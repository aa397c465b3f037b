/// Base + head -> a complete LeRobot checkpoint that from_pretrained loads.
#pragma once

#include <cstdint>
#include <filesystem>

namespace thaw {

class Policy;

struct MergeReport {
  std::int64_t replaced_tensors = 0;
  std::int64_t kept_tensors = 0;
  std::uint64_t bytes = 0;  ///< of model.safetensors
};

/// Writes `output` whole or not at all: config.json of the base; model.safetensors of the base with the trained tensors
/// replaced (the others byte for byte in their original dtype, the trained ones as in the head); the base's processors
/// with the head's statistics and rename map; tokenizer files that lie beside the base.
/// @throws MismatchError when the head was trained on another base or a tensor does not fit; UsageError when `output`
/// exists; FormatError, IoError
MergeReport merge_head(const std::filesystem::path& base_folder, const std::filesystem::path& head_file,
                       const std::filesystem::path& output);

/// Whether the base is one file that holds every tensor of the head under its name: what the above can do. Others are
/// shards, or older names (openpi's, those without "model."), which only the policy's own loader knows.
/// @throws FormatError, IoError for a head that cannot be read
[[nodiscard]] bool merges_file_by_file(const std::filesystem::path& base_folder,
                                       const std::filesystem::path& head_file);

/// Writes `output` as above from a base in any form: `base` as it was loaded, its weights under LeRobot's names in one
/// file. `base` holds the trained tensors afterwards. @throws as load_head() and the above
MergeReport merge_head(Policy& base, const std::filesystem::path& head_file, const std::filesystem::path& output);

}  // namespace thaw
