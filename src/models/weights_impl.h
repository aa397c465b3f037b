/// Matching a model.safetensors with a model's table of tensors, and reading and writing the weights. Knows no model.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "thaw/policy/layout.h"
#include "thaw/policy/statistics.h"
#include "thaw/tensor/safetensors.h"
#include "weights_file_impl.h"

namespace torch::nn {
class Module;
}

namespace thaw::models {

/// What a model.safetensors holds for a table.
struct WeightsIndex {
  std::map<std::string, std::string> file_names;  ///< table name -> name in the file
  std::vector<std::string> statistics;            ///< names of normalisation buffers of older files
};

/// What a tensor of a file is called in the model's table; nothing for one that the model has no use for.
using Rename = std::function<std::optional<std::string>(const std::string& file_name)>;

/// Finds every tensor of `table` in `file`. Known older forms are accepted: `_orig_mod` segments in names,
/// normalisation buffers beside the weights, and what `rename` (if any) makes of the names.
/// @throws MismatchError naming unknown, missing, misshapen and not-floating tensors
[[nodiscard]] WeightsIndex match_weights(const WeightsFile& file, const std::vector<ParameterInfo>& table,
                                         const Rename& rename = {});

struct ReadWeights {
  std::optional<at::ScalarType> dtype;  ///< cast to; empty: as in the file
  bool allow_non_finite = false;
};

/// The tensors of `table` in its order, each read straight into the memory it stays in; sets the table's dtypes.
/// @throws MismatchError naming the tensors that are not finite
[[nodiscard]] std::vector<NamedTensor> read_weights(const WeightsFile& file, const WeightsIndex& index,
                                                    std::vector<ParameterInfo>& table, const ReadWeights& options);

/// The tensors of `wanted`, some of `table`, from the checkpoint in `folder`, in the dtypes the file has.
/// @throws UsageError for an empty folder; as WeightsFile, match_weights and read_weights
[[nodiscard]] std::map<std::string, at::Tensor> read_again(const std::filesystem::path& folder,
                                                           const std::vector<ParameterInfo>& table,
                                                           std::vector<ParameterInfo> wanted,
                                                           const Rename& rename = {});

/// Sets the table's dtypes to those of the file.
void take_dtypes(const WeightsFile& file, const WeightsIndex& index, std::vector<ParameterInfo>& table);

/// Statistics of normalisation buffers ("normalize_inputs.buffer_observation_state.mean", robot-prefixed ones too) for
/// the features named. @throws FormatError when two robots' buffers disagree
[[nodiscard]] Statistics read_buffer_statistics(const WeightsFile& file, const WeightsIndex& index,
                                                const std::vector<std::string>& features);

/// Random weights for `table`: see init_policy. Norm weights of which `is_offset` (if any) says so are about 0.
[[nodiscard]] std::vector<NamedTensor> random_weights(const std::vector<ParameterInfo>& table, std::uint64_t seed,
                                                      const std::function<bool(const std::string&)>& is_offset = {});

/// Writes the module's parameters as <folder>/model.safetensors, adapters merged into the weights of their layers.
void write_weights(const std::filesystem::path& folder, const ModelLayout& layout, const torch::nn::Module& module);

}  // namespace thaw::models
