#include <fmt/format.h>

#include "printable_impl.h"

namespace thaw::detail {
namespace {

bool is_control(char character) {
  const auto code = static_cast<unsigned char>(character);
  return code < 0x20 || code == 0x7f;
}

std::string escaped(std::string_view text, std::string_view kept) {
  std::string shown;
  shown.reserve(text.size());
  for (const char character : text) {
    if (is_control(character) && kept.find(character) == std::string_view::npos) {
      shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(character));
    } else {
      shown += character;
    }
  }
  return shown;
}

}  // namespace

std::string printable(std::string_view text) { return escaped(text, ""); }

std::string printable_lines(std::string_view text) { return escaped(text, "\n"); }

}  // namespace thaw::detail
