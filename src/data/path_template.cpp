#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "path_template_impl.h"
#include "thaw/core/error.h"

namespace thaw::lerobot {
namespace {

constexpr const char* kVideoKey = "video_key";

[[noreturn]] void refuse(const std::string& where, const std::string& found, const std::vector<std::string>& numbers) {
  throw FormatError(
      Problem{.where = where,
              .expected = fmt::format("a path with {{{}}} as the only placeholders, numbers as {{name:0Nd}} "
                                      "with N from 1 to 9",
                                      fmt::join(numbers, "}, {")),
              .found = "'" + found + "'"});
}

}  // namespace

PathTemplate::PathTemplate(const std::string& text, const std::vector<std::string>& numbers, const std::string& where) {
  static const std::regex placeholder(R"(([A-Za-z_]+)(:0([1-9])d)?)");
  std::vector<std::string> known = numbers;
  known.emplace_back(kVideoKey);
  if (text.empty() || text.size() > 4096) refuse(where, text.substr(0, 64), known);
  std::size_t at = 0;
  while (true) {
    const std::size_t open = text.find_first_of("{}", at);
    Piece piece{.literal = text.substr(at, open - at)};
    if (open == std::string::npos) {
      pieces_.push_back(std::move(piece));
      return;
    }
    const std::size_t close = text.find('}', open + 1);
    if (text[open] != '{' || close == std::string::npos) refuse(where, text, known);
    const std::string inside = text.substr(open + 1, close - open - 1);
    std::smatch match;
    if (!std::regex_match(inside, match, placeholder)) refuse(where, "{" + inside + "}", known);
    piece.placeholder = match[1];
    if (match[3].matched) piece.width = std::stoi(match[3]);
    const bool known_number = std::find(numbers.begin(), numbers.end(), piece.placeholder) != numbers.end();
    const bool plain_key = piece.placeholder == kVideoKey && piece.width == 0;
    if (!known_number && !plain_key) refuse(where, "{" + inside + "}", known);
    pieces_.push_back(std::move(piece));
    at = close + 1;
  }
}

std::string PathTemplate::expand(const TemplateValues& values) const {
  std::string path;
  for (const Piece& piece : pieces_) {
    path += piece.literal;
    if (piece.placeholder.empty()) continue;
    if (piece.placeholder == kVideoKey) {
      path += values.video_key;
    } else {
      path += fmt::format("{:0{}d}", values.numbers.at(piece.placeholder), piece.width);
    }
  }
  return path;
}

}  // namespace thaw::lerobot
