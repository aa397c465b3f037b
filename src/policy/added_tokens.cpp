#include <algorithm>

#include "added_tokens_impl.h"
#include "utf8_impl.h"

namespace thaw::detail {
namespace {

/// Unicode's White_Space.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::size_t spaces_at_front(std::string_view text) {
  std::size_t count = 0;
  while (count < text.size()) {
    const Utf8Char c = utf8_front(text.substr(count));
    if (!is_space(c.code)) break;
    count += c.bytes;
  }
  return count;
}

std::size_t spaces_at_back(std::string_view text) {
  std::size_t left = text.size();
  while (left > 0) {
    const Utf8Char c = utf8_back(text.substr(0, left));
    if (!is_space(c.code)) break;
    left -= c.bytes;
  }
  return text.size() - left;
}

}  // namespace

void AddedTokens::Trie::insert(std::string_view content, std::size_t token) {
  std::uint64_t node = 0;
  for (const char c : content) {
    const auto [entry, is_new] = children_.try_emplace(node << 8U | static_cast<unsigned char>(c), nodes_);
    if (is_new) ++nodes_;
    node = entry->second;
  }
  ends_[node] = token;
}

std::optional<AddedTokens::Trie::Match> AddedTokens::Trie::longest_at_front(std::string_view text) const {
  std::optional<Match> best;
  std::uint64_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find(node << 8U | static_cast<unsigned char>(text[i]));
    if (child == children_.end()) break;
    node = child->second;
    const auto end = ends_.find(node);
    if (end != ends_.end()) best = Match{.token = end->second, .length = i + 1};
  }
  return best;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)),
      word_character_(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])", "word characters") {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    (tokens_[i].normalized ? normalized_ : raw_).insert(tokens_[i].content, i);
  }
}

bool AddedTokens::touches_word(std::string_view text, std::size_t begin, std::size_t end) const {
  const auto is_word = [this](std::string_view rest, Utf8Char c, std::size_t offset) {
    return !word_character_.find_all(rest.substr(offset, c.bytes)).empty();
  };
  if (begin > 0) {
    const Utf8Char before = utf8_back(text.substr(0, begin));
    if (is_word(text, before, begin - before.bytes)) return true;
  }
  return end < text.size() && is_word(text, utf8_front(text.substr(end)), end);
}

/// The scan goes on behind a match even when the match is dropped or its spaces reach further: as the reference does.
void AddedTokens::split(std::string_view text, const Trie& trie, std::vector<TextPiece>& pieces) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto match = trie.longest_at_front(text.substr(at));
    if (!match) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match->token];
    std::size_t begin = at;
    std::size_t end = at + match->length;
    at = end;
    if (token.single_word && touches_word(text, begin, end)) continue;
    if (token.lstrip) begin = std::max(begin - spaces_at_back(text.substr(0, begin)), done);
    if (token.rstrip) end += spaces_at_front(text.substr(end));
    if (done < begin) pieces.push_back({.id = std::nullopt, .text = text.substr(done, begin - done)});
    pieces.push_back({.id = token.id, .text = {}});
    done = end;
  }
  if (done < text.size()) pieces.push_back({.id = std::nullopt, .text = text.substr(done)});
}

std::vector<TextPiece> AddedTokens::split(std::string_view text) const {
  std::vector<TextPiece> raw;
  split(text, raw_, raw);
  std::vector<TextPiece> pieces;
  for (const TextPiece& piece : raw) {
    if (piece.id) {
      pieces.push_back(piece);
    } else {
      split(piece.text, normalized_, pieces);
    }
  }
  return pieces;
}

}  // namespace thaw::detail
