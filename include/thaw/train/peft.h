/// Adapters in the files of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.
///
/// PEFT calls a tensor "base_model.model.<name>": <linear>.lora_A.weight, <linear>.lora_B.weight,
/// <linear>.lora_magnitude_vector, and under plain names the parameters of modules_to_save, which trained as a whole.
/// (peft 0.21: utils/save_and_load.py, tuners/lora/config.py)
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "thaw/train/head.h"

namespace thaw {

/// Whether the folder holds an adapter_config.json.
[[nodiscard]] bool is_peft_adapter(const std::filesystem::path& folder);

/// Where the adapter says its base is; empty when it does not say. @throws IoError, FormatError
[[nodiscard]] std::string peft_base(const std::filesystem::path& folder);

/// The adapter as a head: its info knows the adapters and nothing of the base. Statistics are those of the folder's
/// processor files, where LeRobot wrote such.
/// @throws IoError; FormatError for a configuration whose computation is not that of policy/adapters.h (another method,
/// trained biases, an initialisation that changes the base), a tensor that belongs to no adapter, or an adapter that
/// lacks one
[[nodiscard]] Head read_peft_adapter(const std::filesystem::path& folder);

struct PeftReport {
  std::int64_t adapters = 0;
  std::int64_t modules = 0;  ///< trained as a whole (modules_to_save)
  std::uint64_t bytes = 0;   ///< of adapter_model.safetensors
};

/// Writes `output` whole or not at all: the head's adapters for PEFT; config.json of the base with "use_peft" true, the
/// processors with the head's statistics and rename map, and tokenizer files that lie beside the base, as LeRobot
/// keeps an adapter.
/// @throws MismatchError when the head was trained on another base; UsageError when `output` exists, the head has no
/// adapters, LoRA and DoRA are mixed, or a tensor at full rank is one of a module of which others stayed frozen: PEFT
/// has no place for these; FormatError, IoError
PeftReport write_peft_adapter(const std::filesystem::path& base_folder, const std::filesystem::path& head_file,
                              const std::filesystem::path& output);

}  // namespace thaw
