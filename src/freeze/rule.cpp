#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <regex>

#include "rule_impl.h"
#include "split_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

constexpr std::string_view kGroups[] = {"@norms", "@biases", "@embeddings", "@projectors", "@adapters"};

bool is_digit(char letter) { return letter >= '0' && letter <= '9'; }

/// Every view a parser function takes is a part of the whole text, so that an error can say at which character it is.
class RuleParser {
 public:
  explicit RuleParser(std::string_view text) : text_(text) {}

  std::vector<Rule> parse() {
    std::vector<Rule> rules;
    if (trimmed(text_).empty()) return rules;
    for (std::size_t begin = 0; begin <= text_.size();) {
      const std::size_t end = end_of_rule(begin);
      rules.push_back(parse_rule(trimmed(text_.substr(begin, end - begin))));
      begin = end + 1;
    }
    return rules;
  }

 private:
  [[noreturn]] void fail(std::string_view at, const std::string& expected, const std::string& found) const {
    const std::size_t position = static_cast<std::size_t>(at.data() - text_.data()) + 1;
    throw UsageError(Problem{.where = fmt::format("freeze rule '{}' at character {} of '{}'", rule_, position, text_),
                             .expected = expected,
                             .found = found,
                             .fix = std::string(rule_grammar())});
  }

  /// The comma that ends the rule at `begin`, or the end of the text. Commas in /regex/ and in [lists, sets] end
  /// nothing.
  std::size_t end_of_rule(std::size_t begin) {
    rule_ = trimmed(text_.substr(begin));
    std::size_t open = std::string_view::npos;
    for (std::size_t i = end_of_regex(begin); i < text_.size(); ++i) {
      const bool inside = open != std::string_view::npos;
      if (text_[i] == '[' && !inside) open = i;
      if (text_[i] == ']' && inside) open = std::string_view::npos;
      if (text_[i] == ',' && !inside) return i;
    }
    if (open != std::string_view::npos) fail(text_.substr(open), "a ']' for every '['", "none after this '['");
    return text_.size();
  }

  /// Behind the closing slash when the rule at `begin` is train:/…/ or freeze:/…/, else `begin`. A slash closes when it
  /// is in no [set] and only spaces are between it and the next comma or the end.
  std::size_t end_of_regex(std::size_t begin) const {
    const std::size_t sign = text_.find_first_of(":=,", begin);
    if (sign == std::string_view::npos || text_[sign] != ':') return begin;
    const std::size_t slash = text_.find_first_not_of(kSpaces, sign + 1);
    if (slash == std::string_view::npos || text_[slash] != '/') return begin;
    bool in_set = false;
    for (std::size_t i = slash + 1; i < text_.size(); ++i) {
      if (text_[i] == '\\') {
        ++i;
      } else if (text_[i] == '[' || text_[i] == ']') {
        in_set = text_[i] == '[';
      } else if (text_[i] == '/' && !in_set && ends_rule(i + 1)) {
        return i + 1;
      }
    }
    fail(text_.substr(slash), "a '/' that ends the regular expression", "none");
  }

  bool ends_rule(std::size_t position) const {
    const std::size_t next = text_.find_first_not_of(kSpaces, position);
    return next == std::string_view::npos || text_[next] == ',';
  }

  Rule parse_rule(std::string_view rule) {
    rule_ = rule;
    if (rule.empty()) fail(rule, "a rule", "nothing between two commas or at an end");
    check_letters(rule);
    const std::size_t sign = rule.find_first_of(":=");
    if (sign == std::string_view::npos) fail(rule, "a rule with '=' or ':'", fmt::format("'{}'", rule));
    const std::string_view head = trimmed(rule.substr(0, sign));
    const std::string_view tail = trimmed(rule.substr(sign + 1));
    return rule[sign] == ':' ? parse_pattern_rule(head, tail) : parse_stack_rule(head, tail);
  }

  /// Rules are printed and written to plan.json: no control characters, nothing that might be broken UTF-8.
  void check_letters(std::string_view rule) const {
    for (std::size_t i = 0; i < rule.size(); ++i) {
      const auto letter = static_cast<unsigned char>(rule[i]);
      if ((letter >= ' ' && letter <= '~') || kSpaces.find(rule[i]) != std::string_view::npos) continue;
      fail(rule.substr(i), "printable ASCII", fmt::format("byte 0x{:02x}", letter));
    }
  }

  Rule parse_pattern_rule(std::string_view word, std::string_view pattern) const {
    Rule rule{.kind = RuleKind::train, .target = std::string(pattern)};
    if (word == "freeze") {
      rule.kind = RuleKind::freeze;
    } else if (word != "train") {
      fail(word, "train or freeze before ':'", fmt::format("'{}'", word));
    }
    check_pattern(pattern);
    return rule;
  }

  void check_pattern(std::string_view pattern) const {
    if (pattern.empty()) fail(pattern, "a pattern behind ':'", "nothing");
    if (pattern.size() > kMaxPatternLength) {
      fail(pattern, fmt::format("a pattern of at most {} characters", kMaxPatternLength),
           std::to_string(pattern.size()));
    }
    if (pattern.front() == '@') check_group(pattern);
    if (pattern.front() == '/') check_regex(pattern);
  }

  void check_group(std::string_view pattern) const {
    if (std::find(std::begin(kGroups), std::end(kGroups), pattern) != std::end(kGroups)) return;
    fail(pattern, "@norms, @biases, @embeddings, @projectors or @adapters", fmt::format("'{}'", pattern));
  }

  void check_regex(std::string_view pattern) const {
    if (pattern.size() < 3) fail(pattern, "a regular expression between two slashes", fmt::format("'{}'", pattern));
    try {
      const std::regex compiled(std::string(pattern.substr(1, pattern.size() - 2)), std::regex::ECMAScript);
    } catch (const std::regex_error& error) {
      fail(pattern, "an ECMAScript regular expression", error.what());
    }
  }

  Rule parse_stack_rule(std::string_view stack, std::string_view value) const {
    if (stack.empty()) fail(stack, "a stack's name before '='", "nothing");
    if (stack.find_first_of("[]/@ \t\r\n") != std::string_view::npos) {
      fail(stack, "a stack's name before '='", fmt::format("'{}'", stack));
    }
    Rule rule{.kind = RuleKind::last, .target = std::string(stack)};
    if (value == "all") {
      rule.kind = RuleKind::all;
    } else if (value == "none") {
      rule.kind = RuleKind::none;
    } else if (!value.empty() && value.front() == '[') {
      rule.kind = RuleKind::blocks;
      rule.indices = parse_list(value);
    } else if (value.substr(0, 5) == "first") {
      rule.kind = RuleKind::first;
      rule.count = parse_first(value);
    } else if (!value.empty() && is_digit(value.front())) {
      rule.count = parse_number(value);
    } else {
      fail(value, "a number, first:N, all, none or [blocks] behind '='",
           value.empty() ? "nothing" : fmt::format("'{}'", value));
    }
    return rule;
  }

  std::int64_t parse_first(std::string_view value) const {
    const std::string_view rest = trimmed(value.substr(5));
    if (rest.empty() || rest.front() != ':') fail(value, "first:N", fmt::format("'{}'", value));
    return parse_number(trimmed(rest.substr(1)));
  }

  std::vector<std::int64_t> parse_list(std::string_view value) const {
    if (value.back() != ']') fail(value, "nothing behind ']'", fmt::format("'{}'", value));
    const std::string_view inner = value.substr(1, value.size() - 2);
    std::vector<std::int64_t> indices;
    for (std::size_t begin = 0; begin <= inner.size();) {
      const std::size_t end = std::min(inner.find(',', begin), inner.size());
      parse_range(trimmed(inner.substr(begin, end - begin)), indices);
      begin = end + 1;
    }
    std::sort(indices.begin(), indices.end());
    indices.erase(std::unique(indices.begin(), indices.end()), indices.end());
    return indices;
  }

  void parse_range(std::string_view item, std::vector<std::int64_t>& indices) const {
    const std::size_t dash = item.find('-');
    const std::int64_t low = parse_number(trimmed(item.substr(0, dash)));
    const std::int64_t high = dash == std::string_view::npos ? low : parse_number(trimmed(item.substr(dash + 1)));
    if (high < low) fail(item, "a range that rises", fmt::format("'{}'", item));
    // a list that names the same large range over and over must not grow with it
    if (indices.size() > static_cast<std::size_t>(2 * kMaxBlock)) fail(item, "a list of blocks", "too many of them");
    for (std::int64_t index = low; index <= high; ++index) indices.push_back(index);
  }

  std::int64_t parse_number(std::string_view text) const {
    std::int64_t number = -1;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool whole = result.ec == std::errc{} && result.ptr == text.data() + text.size();
    if (!whole || number < 0 || number > kMaxBlock) {
      fail(text, fmt::format("a number from 0 to {}", kMaxBlock), text.empty() ? "nothing" : fmt::format("'{}'", text));
    }
    return number;
  }

  std::string_view text_;
  std::string_view rule_;  ///< the one being read, for messages
};

}  // namespace

std::string_view rule_grammar() {
  return "Rules, comma-separated: STACK=N (the last N blocks), STACK=first:N, STACK=all, STACK=none, STACK=[0,3,5-7], "
         "train:PATTERN, freeze:PATTERN; STACK: a block stack's name, or * for every one; PATTERN: a glob on parameter "
         "names, /regex/, @norms, @biases, @embeddings, @projectors or @adapters. Later rules win.";
}

std::string range_text(const std::vector<std::int64_t>& indices, std::string_view dash, std::string_view comma) {
  std::string text;
  for (std::size_t i = 0; i < indices.size();) {
    std::size_t end = i;
    while (end + 1 < indices.size() && indices[end + 1] == indices[end] + 1) ++end;
    if (!text.empty()) text += comma;
    text += std::to_string(indices[i]);
    if (end > i) text += fmt::format("{}{}", dash, indices[end]);
    i = end + 1;
  }
  return text;
}

std::string Rule::text() const {
  switch (kind) {
    case RuleKind::last:
      return fmt::format("{}={}", target, count);
    case RuleKind::first:
      return fmt::format("{}=first:{}", target, count);
    case RuleKind::all:
      return target + "=all";
    case RuleKind::none:
      return target + "=none";
    case RuleKind::blocks:
      return fmt::format("{}=[{}]", target, range_text(indices, "-", ","));
    case RuleKind::train:
      return "train:" + target;
    case RuleKind::freeze:
      return "freeze:" + target;
  }
  return {};
}

std::vector<Rule> parse_rules(std::string_view text) { return RuleParser(text).parse(); }

}  // namespace thaw
