/// The "pre_tokenizer" of a tokenizer.json: cuts a text into the pieces within which tokens are merged.
/// Reference: huggingface/tokenizers, src/pre_tokenizers/{sequence,digits,byte_level,split}.rs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "regex_impl.h"
#include "thaw/core/json.h"

namespace thaw::detail {

/// What becomes of the matches of a splitting pattern.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// One pass over all pieces.
struct SplitPass {
  std::optional<Regex> pattern;  ///< none: pieces stay whole
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;
  bool prefix_space = false;  ///< a space goes in front of every piece that does not begin with one
};

class PreTokenizer {
 public:
  /// @throws FormatError naming a component that thaw does not know, or when no ByteLevel ends the sequence
  PreTokenizer(const Json& description, const std::string& where);

  /// Pieces of valid UTF-8 text, none empty.
  [[nodiscard]] std::vector<std::string> split(std::string_view text) const;

 private:
  void add(const Json& description, const std::string& where);

  std::vector<SplitPass> passes_;
  bool byte_level_ = false;
};

}  // namespace thaw::detail
