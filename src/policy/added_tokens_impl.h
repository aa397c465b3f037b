/// Tokens that are found in the raw text before anything else: "<|im_end|>", "<image>".
/// Reference: huggingface/tokenizers, src/tokenizer/added_vocabulary.rs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "regex_impl.h"

namespace thaw::detail {

struct AddedToken {
  std::int64_t id = 0;
  std::string content;
  bool single_word = false;  ///< only where no letter, digit or joiner touches it
  bool lstrip = false;       ///< takes the spaces before it
  bool rstrip = false;       ///< and behind it
  bool normalized = true;    ///< found after normalisation, so after the tokens that are not
};

/// A token, or text between tokens.
struct TextPiece {
  std::optional<std::int64_t> id;
  std::string_view text;
};

class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens);
  /// Pieces in order; text pieces are not empty. `text` is valid UTF-8.
  [[nodiscard]] std::vector<TextPiece> split(std::string_view text) const;

 private:
  /// A trie over bytes; a node's children are found under (node << 8 | byte).
  class Trie {
   public:
    void insert(std::string_view content, std::size_t token);
    struct Match {
      std::size_t token = 0;
      std::size_t length = 0;
    };
    /// The longest token at the front of `text`.
    [[nodiscard]] std::optional<Match> longest_at_front(std::string_view text) const;

   private:
    std::unordered_map<std::uint64_t, std::uint64_t> children_;
    std::unordered_map<std::uint64_t, std::size_t> ends_;
    std::uint64_t nodes_ = 1;
  };

  void split(std::string_view text, const Trie& trie, std::vector<TextPiece>& pieces) const;
  [[nodiscard]] bool touches_word(std::string_view text, std::size_t begin, std::size_t end) const;

  std::vector<AddedToken> tokens_;
  Trie raw_;
  Trie normalized_;
  Regex word_character_;
};

}  // namespace thaw::detail
