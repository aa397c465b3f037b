/// What a checkpoint made from a base takes from the base's folder.
#pragma once

#include <filesystem>

#include "thaw/train/head.h"

namespace thaw {

/// @throws UsageError when there is something at `output`
void require_absent(const std::filesystem::path& output);

/// @throws MismatchError when the head knows its base's file and `model` is another
void require_same_base(const HeadInfo& info, const std::filesystem::path& model,
                       const std::filesystem::path& head_file);

/// Copies configuration and tokenizer files, those of processors apart, which are written anew.
void copy_companions(const std::filesystem::path& base_folder, const std::filesystem::path& target);

}  // namespace thaw
