/// What a file that is no safetensors file may be instead.
#pragma once

#include <string>
#include <string_view>

namespace thaw::detail {

/// "a Python pickle", "an HTML page", …; empty when the first bytes tell nothing.
[[nodiscard]] std::string recognise_other_format(std::string_view start);

/// What to do about it.
[[nodiscard]] std::string advice_for_other_format(std::string_view format);

}  // namespace thaw::detail
