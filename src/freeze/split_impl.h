/// Taking rules apart as people type them: spaces around a part are of no concern.
#pragma once

#include <string_view>
#include <vector>

namespace thaw {

/// Spaces, tabs and line ends.
inline constexpr std::string_view kSpaces = " \t\r\n";

/// Without spaces, tabs and line ends around it; a part of `text`, at its end when nothing is left.
[[nodiscard]] std::string_view trimmed(std::string_view text);

/// The parts between the signs, trimmed; at least one.
[[nodiscard]] std::vector<std::string_view> split(std::string_view text, char sign);

}  // namespace thaw
