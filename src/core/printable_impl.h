/// Text that comes from files nobody vouches for, made safe to show.
#pragma once

#include <string>
#include <string_view>

namespace thaw::detail {

/// Control characters as \xNN, so that a message is one line and cannot steer the terminal.
[[nodiscard]] std::string printable(std::string_view text);

/// The same, but line ends stay.
[[nodiscard]] std::string printable_lines(std::string_view text);

}  // namespace thaw::detail
