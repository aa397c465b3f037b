/// The weights of a checkpoint folder, whether they lie in one file or in several.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "thaw/tensor/safetensors.h"

namespace thaw::models {

/// model.safetensors or, where that is absent, the shards that model.safetensors.index.json lists
/// (huggingface_hub's save_torch_state_dict). Headers are read and checked at once, tensors when they are asked for.
class WeightsFile {
 public:
  /// @throws IoError when the folder holds neither, or a shard is missing; FormatError for an index that is not one, or
  ///         names a file outside the folder; MismatchError when index and shards disagree, or two shards hold one
  ///         tensor; as SafetensorsFile
  explicit WeightsFile(const std::filesystem::path& folder);

  /// model.safetensors, or the index.
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] const std::vector<SafetensorsEntry>& entries() const noexcept { return entries_; }
  [[nodiscard]] bool contains(const std::string& name) const { return place_.contains(name); }
  /// @throws FormatError for an unknown name
  [[nodiscard]] const SafetensorsEntry& entry(const std::string& name) const;
  /// As SafetensorsFile::read.
  [[nodiscard]] at::Tensor read(const std::string& name) const;

  /// Whether the folder holds weights in either form.
  [[nodiscard]] static bool exists_in(const std::filesystem::path& folder);

 private:
  void add_file(const std::filesystem::path& file);
  void add_shards(const std::filesystem::path& folder);
  [[nodiscard]] const SafetensorsFile& file_of(const std::string& name) const;

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::size_t> place_;  ///< tensor -> index of its file
};

}  // namespace thaw::models
