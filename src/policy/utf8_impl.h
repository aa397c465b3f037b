/// UTF-8 by code point. Apart from check_utf8, the functions expect valid text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace thaw::detail {

struct Utf8Char {
  char32_t code = 0;
  std::size_t bytes = 0;
};

/// @throws FormatError naming `where` and the offset of the first byte that is no UTF-8 (overlong forms, surrogates and
/// code points beyond U+10FFFF included)
void check_utf8(std::string_view text, const std::string& where);

/// The first and the last code point of a text that is not empty.
[[nodiscard]] Utf8Char utf8_front(std::string_view text);
[[nodiscard]] Utf8Char utf8_back(std::string_view text);

[[nodiscard]] std::string utf8_encode(char32_t code);

}  // namespace thaw::detail
