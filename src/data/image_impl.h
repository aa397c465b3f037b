/// Image files in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

namespace thaw::lerobot {

/// Decodes a PNG or JPEG file to (3, H, W) uint8; transparency is dropped, grey becomes RGB.
/// @throws FormatError naming `where`
[[nodiscard]] at::Tensor decode_image(std::string_view bytes, const std::string& where);

}  // namespace thaw::lerobot
