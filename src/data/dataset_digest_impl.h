/// A dataset's identity: what must be read again when it changes.
#pragma once

#include <string>

#include "tables_impl.h"

namespace thaw::lerobot {

/// SHA-256 of meta/ (names and contents) and of the data and video files' names, sizes and modification times, as they
/// are on disk now. @throws IoError
[[nodiscard]] std::string dataset_digest(const Tables& tables);

}  // namespace thaw::lerobot
