/// Policies by type: loading a LeRobot checkpoint, making a new one, and describing one without its weights.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "thaw/models/initial_dtypes.h"
#include "thaw/policy/features.h"
#include "thaw/policy/layout.h"
#include "thaw/policy/policy.h"
#include "thaw/policy/statistics.h"

namespace thaw {

/// LeRobot policy types that thaw can build ("smolvla", "pi0", "pi05").
[[nodiscard]] std::vector<std::string> policy_types();

/// Names that init_policy and layout_of_named_config know: "smolvla", "pi0", "pi05" (published sizes), and the same
/// with
/// "_tiny" (for tests and demos).
[[nodiscard]] std::vector<std::string> named_configs();

struct LoadOptions {
  std::filesystem::path tokenizer_folder;  ///< wins over the tokenizer that the checkpoint names
  std::optional<at::ScalarType> dtype;     ///< of every parameter; empty: each as in the file
  /// Replace the checkpoint's output features when not empty (LeRobot's fine-tuning takes the dataset's action width).
  Features output_features;
  bool allow_non_finite = false;  ///< take a file whose weights hold NaN or infinities
};

/// Reads a LeRobot checkpoint folder: config.json, model.safetensors or the shards of model.safetensors.index.json,
/// both processors, vlm_config.json where there is one. Older forms are read too: names of openpi and of older
/// versions, normalisation buffers inside the model file become statistics of the processors,
/// `_orig_mod` segments of compiled models are dropped, and missing processor files are built from the configuration.
/// @throws UsageError for a policy type thaw does not know; IoError, FormatError for a file that cannot be used;
///         MismatchError naming every unknown, missing or misshapen tensor (up to a cap), or those that are not finite
[[nodiscard]] std::shared_ptr<Policy> load_policy(const std::filesystem::path& folder, const LoadOptions& options = {});

struct InitOptions {
  std::string config = "smolvla_tiny";  ///< a named configuration, a config.json, or a folder that holds one
  InitialDtypes dtypes = InitialDtypes::float32;
  std::uint64_t seed = 0;
  Features cameras;                        ///< replace the configured ones when not empty; type visual, shape (C, H, W)
  std::optional<std::int64_t> state_dim;   ///< real width of observation.state
  std::optional<std::int64_t> action_dim;  ///< real width of action
  std::optional<std::int64_t> chunk_size;  ///< also n_action_steps when that would be larger
  Statistics statistics;                   ///< of the normalisers; empty: they leave values as they are
  std::filesystem::path tokenizer_folder;  ///< read for the processors; see find_tokenizer when empty
};

/// A policy with random weights, a pure function of the options: matrices N(0, 1) / sqrt(fan-in), norm weights about 1,
/// biases 0.1 N(0, 1), so that no branch of the network is silent.
/// @throws UsageError for an unknown name or an option out of range
[[nodiscard]] std::shared_ptr<Policy> init_policy(const InitOptions& options);

/// Parameters, stacks and line of a named configuration, a config.json, or a folder that holds one. Reads no weights.
/// Without vlm_config.json the sizes are those of the published models. @throws UsageError, IoError, FormatError
[[nodiscard]] ModelLayout layout_of_named_config(const std::string& config,
                                                 InitialDtypes dtypes = InitialDtypes::published);

}  // namespace thaw
