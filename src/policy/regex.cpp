#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <optional>

#include "regex_impl.h"
#include "thaw/core/error.h"
#include "utf8_impl.h"

namespace thaw::detail {
namespace {

bool is_ascii_alnum(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/// Oniguruma to PCRE2. What the two read differently is translated, or refused where no translation is exact.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : rest_(pattern), where_(where) {}

  std::string translate() {
    while (!rest_.empty()) step();
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(std::string_view construct) const {
    throw FormatError(Problem{.where = where_,
                              .expected = "a regular expression of constructs that thaw knows",
                              .found = "'" + std::string(construct) + "'"});
  }

  void copy(std::size_t count) {
    result_ += rest_.substr(0, count);
    rest_.remove_prefix(count);
  }

  void replace(std::size_t count, std::string_view by) {
    result_ += by;
    rest_.remove_prefix(count);
  }

  void step() {
    if (rest_.front() == '\\') return escape();
    if (in_class_) return class_member();
    if (rest_.front() == '[') return open_class();
    if (rest_.front() == '(') return open_group();
    if (rest_.starts_with("}+")) refuse("}+");  // possessive in PCRE2, a repeated interval in Oniguruma
    copy(1);
  }

  void escape() {
    if (rest_.size() < 2) refuse("\\");
    const char letter = rest_[1];
    // PCRE2's own \s also takes U+180E, which left White_Space with Unicode 6.3.
    if (letter == 's') return replace(2, "\\p{White_Space}");
    if (letter == 'S') return replace(2, "\\P{White_Space}");
    if (letter == 'd') return replace(2, "\\p{Nd}");
    if (letter == 'D') return replace(2, "\\P{Nd}");
    constexpr std::string_view kSame = "pPrntfx";
    if (is_ascii_alnum(letter) && kSame.find(letter) == std::string_view::npos) refuse(rest_.substr(0, 2));
    copy(2);
    const bool named = letter == 'p' || letter == 'P' || letter == 'x';
    if (named && rest_.starts_with('{')) copy(std::min(rest_.find('}'), rest_.size() - 1) + 1);
  }

  void open_class() {
    in_class_ = true;
    copy(rest_.starts_with("[^") ? 2 : 1);
    if (rest_.starts_with(']')) refuse("[]");
  }

  void class_member() {
    if (rest_.front() == '[') refuse("[ in a set");
    if (rest_.starts_with("&&")) refuse("&& in a set");
    if (rest_.front() == ']') in_class_ = false;
    copy(1);
  }

  void open_group() {
    if (rest_.starts_with("(*")) refuse("(*");
    if (!rest_.starts_with("(?")) return copy(1);
    constexpr std::array<std::string_view, 7> kSame{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    for (const std::string_view opening : kSame) {
      if (rest_.starts_with(opening)) return copy(opening.size());
    }
    refuse(rest_.substr(0, 3));
  }

  std::string_view rest_;
  const std::string& where_;
  std::string result_;
  bool in_class_ = false;
};

pcre2_code* compile(std::string_view pattern, const std::string& where) {
  const std::string translated = Translator(pattern, where).translate();
  // ^ and $ are line anchors, as in Oniguruma's default syntax.
  constexpr std::uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), kOptions, &error,
                                   &offset, nullptr);
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 256> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    throw FormatError(Problem{.where = where,
                              .expected = "a regular expression",
                              .found = std::string(reinterpret_cast<const char*>(message.data()))});
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // no JIT on this machine: the interpreter matches
  return code;
}

/// One pass over a text.
class Matcher {
 public:
  Matcher(const pcre2_code* code, std::string_view text, const std::string& where)
      : code_(code), text_(text), where_(where), data_(pcre2_match_data_create_from_pattern(code, nullptr)) {}

  std::optional<Regex::Span> next_from(std::size_t offset) {
    int found = match(offset, PCRE2_NO_UTF_CHECK);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(offset, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (found < 0) {
      throw FormatError(Problem{.where = where_,
                                .expected = "a pattern that splits " + std::to_string(text_.size()) + " bytes of text",
                                .found = "one that backtracks too much"});
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_.get());
    return Regex::Span{.begin = bounds[0], .end = bounds[1]};
  }

 private:
  int match(std::size_t offset, std::uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), offset, options, data_.get(),
                       nullptr);
  }

  struct FreeData {
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };

  const pcre2_code* code_;
  std::string_view text_;
  const std::string& where_;
  std::unique_ptr<pcre2_match_data, FreeData> data_;
};

}  // namespace

Regex::Regex(std::string_view pattern, std::string where)
    : code_(compile(pattern, where), [](void* code) { pcre2_code_free(static_cast<pcre2_code*>(code)); }),
      where_(std::move(where)) {}

std::vector<Regex::Span> Regex::find_all(std::string_view text) const {
  Matcher matcher(static_cast<const pcre2_code*>(code_.get()), text, where_);
  std::vector<Span> spans;
  std::size_t offset = 0;
  while (offset <= text.size()) {
    const auto span = matcher.next_from(offset);
    if (!span) break;
    const bool empty_after_last = span->begin == span->end && !spans.empty() && spans.back().end == span->end;
    if (empty_after_last) {
      if (offset == text.size()) break;
      offset += utf8_front(text.substr(offset)).bytes;
      continue;
    }
    spans.push_back(*span);
    offset = span->end;
  }
  return spans;
}

std::string escape_regex(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    const bool plain = is_ascii_alnum(c) || static_cast<unsigned char>(c) >= 0x80U;
    if (!plain) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace thaw::detail
