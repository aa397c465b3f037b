/// LeRobot's processor steps, built in code: for a fresh policy, and for old checkpoints whose statistics lie in the
/// model file. Every step writes the "config" object that LeRobot 0.6.1 reads back.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/policy/features.h"
#include "thaw/policy/processor.h"
#include "thaw/policy/statistics.h"
#include "thaw/policy/tokenizer.h"

namespace thaw {

/// Keys that steps write.
inline constexpr const char* kTokensKey = "observation.language.tokens";  ///< (B, L) int64
inline constexpr const char* kAttentionMaskKey =
    "observation.language.attention_mask";  ///< (B, L) bool, false on padding
inline constexpr const char* kActionReferenceKey =
    "action.reference";  ///< (B, D) what relative actions are relative to

/// "rename_observations_processor": `map` old key -> new key; a companion "<old>_is_pad" or "<old>_padding_mask"
/// follows.
[[nodiscard]] std::shared_ptr<ProcessorStep> make_rename_step(std::map<std::string, std::string> map);

/// "to_batch_processor": adds the batch dimension that an unbatched state (D), image (C, H, W) or action (D) lacks.
[[nodiscard]] std::shared_ptr<ProcessorStep> make_to_batch_step();

/// `registry_name`: "smolvla_new_line_processor" or "pi0_new_line_processor"; both end every task with a newline.
/// @throws UsageError for another name
[[nodiscard]] std::shared_ptr<ProcessorStep> make_new_line_step(std::string_view registry_name);

enum class TokenPadding { longest, max_length };  ///< to the longest text of the batch, or to max_length
enum class PaddingSide { left, right };

struct TokenizerStepOptions {
  std::int64_t max_length = 512;
  TokenPadding padding = TokenPadding::max_length;
  PaddingSide padding_side = PaddingSide::right;
  bool truncation = true;      ///< to max_length, on the tokenizer's truncation side
  std::string tokenizer_name;  ///< as saved, e.g. "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
  std::string task_key = "task";
  void validate() const;
};

/// "tokenizer_processor": tasks -> kTokensKey and kAttentionMaskKey. @throws UsageError for bad options or a null
/// tokenizer
[[nodiscard]] std::shared_ptr<ProcessorStep> make_tokenizer_step(TokenizerStepOptions options,
                                                                 std::shared_ptr<const Tokenizer> tokenizer);
/// The same, with the tokenizer looked for at its first use (IoError then).
[[nodiscard]] std::shared_ptr<ProcessorStep> make_tokenizer_step(TokenizerStepOptions options, TokenizerSearch search);

/// "device_processor": every tensor to `device`. Where `device` is CUDA and no CUDA device answers, tensors stay where
/// they are, as LeRobot replaces an unavailable device.
[[nodiscard]] std::shared_ptr<ProcessorStep> make_device_step(at::Device device);

/// LeRobot's NormalizationMode. x is the tensor; mean, std, … its statistics, cast to its dtype.
enum class NormalizationMode {
  identity,
  mean_std,    ///< (x − mean) / (std + eps); back: x·std + mean
  min_max,     ///< 2 (x − min) / d − 1 with d = max − min, or eps where that is 0
  quantiles,   ///< as min_max with q01 and q99
  quantile10,  ///< as min_max with q10 and q90
};

/// "IDENTITY", "MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10". @throws UsageError for another word
[[nodiscard]] NormalizationMode parse_normalization_mode(std::string_view text);
[[nodiscard]] std::string_view normalization_mode_name(NormalizationMode mode);

struct NormalizerOptions {
  double eps = 1e-8;
  Features features;                                  ///< what may be normalised; "action" always may
  std::map<FeatureType, NormalizationMode> norm_map;  ///< a type that is absent stays as it is
  Statistics
      statistics;  ///< a feature without an entry stays as it is; an entry without the needed statistic is an error
  std::optional<std::vector<std::string>> normalize_observation_keys;  ///< only these observations, when given
  void validate() const;
};

/// "normalizer_processor" and "unnormalizer_processor".
[[nodiscard]] std::shared_ptr<ProcessorStep> make_normalizer_step(NormalizerOptions options);
[[nodiscard]] std::shared_ptr<ProcessorStep> make_unnormalizer_step(NormalizerOptions options);

struct RelativeActionOptions {
  bool enabled = false;
  std::vector<std::string> exclude_joints{"gripper"};    ///< joints whose name contains one of these stay absolute
  std::optional<std::vector<std::string>> action_names;  ///< of the action's dimensions; none: nothing is excluded
};

/// "relative_actions_processor": action −= state, and kActionReferenceKey for the way back. Disabled: passes.
[[nodiscard]] std::shared_ptr<ProcessorStep> make_relative_actions_step(RelativeActionOptions options);
/// "absolute_actions_processor": action += kActionReferenceKey. Disabled: passes.
[[nodiscard]] std::shared_ptr<ProcessorStep> make_absolute_actions_step(bool enabled);

/// "pi05_prepare_state_tokenizer_processor_step": task -> "Task: <task>, State: <bins>;\nAction: " from the normalised
/// "observation.state" (B, D).
[[nodiscard]] std::shared_ptr<ProcessorStep> make_pi05_prompt_step();

}  // namespace thaw
