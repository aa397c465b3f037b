// The base's processor files with a head's statistics and rename map in them. Works on the files as they are, so that a
// step keeps its configuration and no tokenizer has to be at hand.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "thaw/core/json.h"
#include "thaw/train/head.h"

namespace thaw {

/// policy_preprocessor*.{json,safetensors} and policy_postprocessor*.
[[nodiscard]] bool is_processor_file(const std::filesystem::path& file);

class MergedProcessors {
 public:
  /// Reads and checks everything before anything is written.
  /// @throws UsageError when the base has no processor files; FormatError
  MergedProcessors(const std::filesystem::path& base_folder, const Head& head);
  void write(const std::filesystem::path& folder) const;

 private:
  void add_pipeline(const std::filesystem::path& base_folder, const std::string& name, const Head& head);

  std::map<std::string, Json> pipelines_;                            ///< file name -> content
  std::map<std::string, std::map<std::string, at::Tensor>> states_;  ///< state file name -> tensors
};

}  // namespace thaw
