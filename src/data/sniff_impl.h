/// What a file really is when it is not what its name says.
#pragma once

#include <string>

#include "thaw/core/files.h"

namespace thaw::lerobot {

/// "an empty file", "an HTML page", "a Git LFS pointer (…)", "a Parquet file", … or "unknown data".
[[nodiscard]] std::string describe_content(const InputFile& file);

}  // namespace thaw::lerobot
