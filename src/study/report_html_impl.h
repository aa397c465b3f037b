// Text and numbers as they stand in pages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace thaw {

/// For an element's content or a quoted attribute.
[[nodiscard]] std::string escaped(std::string_view text);
/// Five significant digits.
[[nodiscard]] std::string number_text(double value);
/// "12,345"
[[nodiscard]] std::string count_text(std::int64_t count);
/// "1.2 MB"; "–" where there is none.
[[nodiscard]] std::string size_text(const std::optional<std::int64_t>& bytes);
/// "held-out loss", "held-out action_mse", "evaluator success", …
[[nodiscard]] std::string figure_title(const std::string& figure);

}  // namespace thaw
