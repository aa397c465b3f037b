/// Names a user typed: glob and regular-expression matching, and the nearest existing names for a misspelt one.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thaw {

/// Shell-style match of the whole text: `*` any run of characters (dots included), `?` one character, `[a-c]` a set.
[[nodiscard]] bool glob_match(std::string_view pattern, std::string_view text);

/// The `count` candidates nearest to `wanted` by edit distance, nearest first, ties in the candidates' order.
/// Candidates that share no likeness (distance above half the longer length, and `wanted` no part of them) are left
/// out.
[[nodiscard]] std::vector<std::string> nearest_names(std::string_view wanted, std::span<const std::string> candidates,
                                                     std::size_t count = 3);

/// "Did you mean 'a', 'b'?" or, when nothing is near, "Known: a, b, …" (at most 12 names).
[[nodiscard]] std::string suggest(std::string_view wanted, std::span<const std::string> candidates);

}  // namespace thaw
