/// Regular expressions as tokenizer.json writes them (Oniguruma's syntax), matched by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace thaw::detail {

/// Character classes are those of PCRE2's Unicode (14.0 in PCRE2 10.42): younger characters count as neither letter nor
/// digit.
class Regex {
 public:
  struct Span {
    std::size_t begin = 0;
    std::size_t end = 0;
  };

  /// Only constructs that mean the same in both are taken: \s is Unicode's White_Space, \d is Nd.
  /// @throws FormatError naming `where` and the construct
  Regex(std::string_view pattern, std::string where);

  /// Matches from left to right, not overlapping. `text` is valid UTF-8. Thread-safe.
  /// @throws FormatError when the pattern backtracks without end
  [[nodiscard]] std::vector<Span> find_all(std::string_view text) const;

 private:
  std::shared_ptr<void> code_;
  std::string where_;
};

/// The pattern that matches `text` itself.
[[nodiscard]] std::string escape_regex(std::string_view text);

}  // namespace thaw::detail
