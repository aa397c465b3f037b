#include "thaw/core/error.h"
#include "utf8_impl.h"

namespace thaw::detail {
namespace {

constexpr bool is_continuation(unsigned char byte) { return (byte & 0xC0U) == 0x80U; }

unsigned char byte_at(std::string_view text, std::size_t offset) { return static_cast<unsigned char>(text[offset]); }

/// Bytes of the sequence that a leading byte announces; 0 for a byte that cannot lead.
constexpr std::size_t sequence_length(unsigned char lead) {
  if (lead < 0x80U) return 1;
  if (lead >= 0xC2U && lead < 0xE0U) return 2;
  if (lead >= 0xE0U && lead < 0xF0U) return 3;
  if (lead >= 0xF0U && lead < 0xF5U) return 4;
  return 0;
}

/// Whether the second byte keeps the code point within Unicode, not overlong, and no surrogate.
constexpr bool is_second(unsigned char lead, unsigned char second) {
  if (lead == 0xE0U) return second >= 0xA0U && second < 0xC0U;
  if (lead == 0xEDU) return second >= 0x80U && second < 0xA0U;
  if (lead == 0xF0U) return second >= 0x90U && second < 0xC0U;
  if (lead == 0xF4U) return second >= 0x80U && second < 0x90U;
  return is_continuation(second);
}

/// Length of the valid sequence at the front of `text`, or 0.
std::size_t valid_length(std::string_view text) {
  const std::size_t length = sequence_length(byte_at(text, 0));
  if (length == 0 || length > text.size()) return 0;
  if (length > 1 && !is_second(byte_at(text, 0), byte_at(text, 1))) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if (!is_continuation(byte_at(text, i))) return 0;
  }
  return length;
}

}  // namespace

void check_utf8(std::string_view text, const std::string& where) {
  for (std::size_t offset = 0; offset < text.size();) {
    const std::size_t length = valid_length(text.substr(offset));
    if (length == 0) {
      throw FormatError(Problem{
          .where = where, .expected = "UTF-8 text", .found = "an invalid byte at offset " + std::to_string(offset)});
    }
    offset += length;
  }
}

Utf8Char utf8_front(std::string_view text) {
  const unsigned char lead = byte_at(text, 0);
  const std::size_t length = sequence_length(lead);
  char32_t code = length == 1 ? lead : lead & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) code = (code << 6U) | (byte_at(text, i) & 0x3FU);
  return {.code = code, .bytes = length};
}

Utf8Char utf8_back(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (is_continuation(byte_at(text, begin))) --begin;
  return utf8_front(text.substr(begin));
}

std::string utf8_encode(char32_t code) {
  const auto continuation = [code](unsigned shift) { return static_cast<char>(0x80U | ((code >> shift) & 0x3FU)); };
  if (code < 0x80U) return {static_cast<char>(code)};
  if (code < 0x800U) return {static_cast<char>(0xC0U | (code >> 6U)), continuation(0)};
  if (code < 0x10000U) return {static_cast<char>(0xE0U | (code >> 12U)), continuation(6), continuation(0)};
  return {static_cast<char>(0xF0U | (code >> 18U)), continuation(12), continuation(6), continuation(0)};
}

}  // namespace thaw::detail
