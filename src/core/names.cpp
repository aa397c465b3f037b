#include "thaw/core/names.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

namespace thaw {
namespace {

/// One element of a pattern, starting at `at`: how long it is, and whether it matches `character`.
struct Element {
  std::size_t length = 1;
  bool matches = false;
};

// A set "[a-c_]" or "[!a-c]"; nullopt when the bracket is never closed, and so stands for itself.
std::optional<Element> match_set(std::string_view pattern, char character) {
  std::size_t at = 1;
  const bool negated = at < pattern.size() && (pattern[at] == '!' || pattern[at] == '^');
  if (negated) ++at;
  bool matches = false;
  for (const std::size_t first = at; at < pattern.size(); ++at) {
    if (pattern[at] == ']' && at > first) return Element{.length = at + 1, .matches = matches != negated};
    const bool range = at + 2 < pattern.size() && pattern[at + 1] == '-' && pattern[at + 2] != ']';
    const char low = pattern[at];
    const char high = range ? pattern[at + 2] : low;
    matches = matches || (low <= character && character <= high);
    if (range) at += 2;
  }
  return std::nullopt;
}

Element match_one(std::string_view pattern, char character) {
  if (pattern.front() == '?') return {.length = 1, .matches = true};
  if (pattern.front() == '[') {
    if (const auto set = match_set(pattern, character)) return *set;
  }
  return {.length = 1, .matches = pattern.front() == character};
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

std::string quoted(std::span<const std::string> names) {
  std::string text;
  for (const std::string& name : names) text += fmt::format("{}'{}'", text.empty() ? "" : ", ", name);
  return text;
}

}  // namespace

// Only the last star ever needs to grow, so the time is at most pattern times text.
bool glob_match(std::string_view pattern, std::string_view text) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::optional<std::size_t> star;  // position after the last star
  std::size_t star_text = 0;        // what that star is tried to end before
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      star_text = t;
      continue;
    }
    const Element element = p < pattern.size() ? match_one(pattern.substr(p), text[t]) : Element{};
    if (element.matches) {
      p += element.length;
      ++t;
    } else if (star) {
      p = *star;
      t = ++star_text;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

std::vector<std::string> nearest_names(std::string_view wanted, std::span<const std::string> candidates,
                                       std::size_t count) {
  struct Near {
    std::size_t distance;
    std::size_t index;
  };
  std::vector<Near> near;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const std::string& name = candidates[i];
    const std::size_t distance = edit_distance(wanted, name);
    const bool part = !wanted.empty() && name.find(wanted) != std::string::npos;
    if (part || 2 * distance <= std::max(wanted.size(), name.size())) near.push_back({distance, i});
  }
  std::stable_sort(near.begin(), near.end(), [](const Near& a, const Near& b) { return a.distance < b.distance; });
  std::vector<std::string> names;
  for (const Near& one : std::span(near).first(std::min(count, near.size()))) names.push_back(candidates[one.index]);
  return names;
}

std::string suggest(std::string_view wanted, std::span<const std::string> candidates) {
  if (const auto near = nearest_names(wanted, candidates); !near.empty()) {
    return fmt::format("Did you mean {}?", quoted(near));
  }
  if (candidates.empty()) return "There are none.";
  constexpr std::size_t kMost = 12;
  std::string known;
  for (const std::string& name : candidates.first(std::min(kMost, candidates.size()))) {
    known += (known.empty() ? "" : ", ") + name;
  }
  return fmt::format("Known: {}{}", known, candidates.size() > kMost ? ", …" : ".");
}

}  // namespace thaw
