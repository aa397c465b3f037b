/// One freeze rule, and its text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thaw {

enum class RuleKind { last, first, all, none, blocks, train, freeze };

struct Rule {
  RuleKind kind = RuleKind::none;
  std::string target;                 ///< stack name or "*"; pattern for train and freeze
  std::int64_t count = 0;             ///< of last and first
  std::vector<std::int64_t> indices;  ///< of blocks: ascending, each once

  [[nodiscard]] bool is_pattern() const { return kind == RuleKind::train || kind == RuleKind::freeze; }
  /// Canonical: without spaces, block lists as ranges.
  [[nodiscard]] std::string text() const;
};

/// The largest count or block index a rule may name; a longer list would only be a slip or an attack.
inline constexpr std::int64_t kMaxBlock = 9'999;
/// std::regex recurses and backtracks: a longer pattern is nothing a person typed.
inline constexpr std::size_t kMaxPatternLength = 256;

/// One line that says what rules look like, for error messages.
[[nodiscard]] std::string_view rule_grammar();

/// Comma-separated rules. @throws UsageError showing the rule, the position and the grammar
[[nodiscard]] std::vector<Rule> parse_rules(std::string_view text);

/// [0, 1, 2, 5] -> "0-2,5" with the given signs. `indices` ascending.
[[nodiscard]] std::string range_text(const std::vector<std::int64_t>& indices, std::string_view dash,
                                     std::string_view comma);

}  // namespace thaw
