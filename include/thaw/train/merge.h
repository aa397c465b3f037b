/// Base + head -> a complete LeRobot checkpoint that from_pretrained loads.
#pragma once

#include <cstdint>
#include <filesystem>

namespace thaw {

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

}  // namespace thaw
