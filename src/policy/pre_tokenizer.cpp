#include <array>

#include "pre_tokenizer_impl.h"
#include "thaw/core/error.h"

namespace thaw::detail {
namespace {

/// GPT-2's split: English contractions, words, numbers and other signs with one space in front, spaces.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Piece {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool match = false;
};

/// Matches and what lies between them, in order.
std::vector<Piece> all_pieces(const SplitPass& pass, std::string_view text) {
  std::vector<Piece> pieces;
  std::size_t done = 0;
  for (const Regex::Span& span : pass.pattern->find_all(text)) {
    if (done != span.begin) pieces.push_back({.begin = done, .end = span.begin, .match = pass.invert});
    pieces.push_back({.begin = span.begin, .end = span.end, .match = !pass.invert});
    done = span.end;
  }
  if (done != text.size()) pieces.push_back({.begin = done, .end = text.size(), .match = pass.invert});
  return pieces;
}

std::vector<Piece> without_matches(const std::vector<Piece>& pieces) {
  std::vector<Piece> result;
  for (const Piece& piece : pieces) {
    if (!piece.match) result.push_back(piece);
  }
  return result;
}

/// A match joins the piece before it, unless that piece is a match as well.
std::vector<Piece> joined_to_previous(const std::vector<Piece>& pieces) {
  std::vector<Piece> result;
  bool after_match = false;
  for (const Piece& piece : pieces) {
    if (piece.match && !after_match && !result.empty()) {
      result.back().end = piece.end;
    } else {
      result.push_back(piece);
    }
    after_match = piece.match;
  }
  return result;
}

/// A match joins the piece behind it, unless that piece is a match as well.
std::vector<Piece> joined_to_next(const std::vector<Piece>& pieces) {
  std::vector<Piece> result;
  bool before_is_match = false;
  for (const Piece& piece : pieces) {
    if (before_is_match && !piece.match) {
      result.back().end = piece.end;
    } else {
      result.push_back(piece);
    }
    before_is_match = piece.match;
  }
  return result;
}

std::vector<Piece> joined_to_runs(const std::vector<Piece>& pieces) {
  std::vector<Piece> result;
  for (const Piece& piece : pieces) {
    if (!result.empty() && result.back().match == piece.match) {
      result.back().end = piece.end;
    } else {
      result.push_back(piece);
    }
  }
  return result;
}

std::vector<Piece> arranged(std::vector<Piece> pieces, SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::removed:
      return without_matches(pieces);
    case SplitBehavior::merged_with_previous:
      return joined_to_previous(pieces);
    case SplitBehavior::merged_with_next:
      return joined_to_next(pieces);
    case SplitBehavior::contiguous:
      return joined_to_runs(pieces);
    case SplitBehavior::isolated:
      break;
  }
  return pieces;
}

void split_piece(const SplitPass& pass, std::string text, std::vector<std::string>& result) {
  if (pass.prefix_space && !text.starts_with(' ')) text.insert(text.begin(), ' ');
  if (!pass.pattern) {
    result.push_back(std::move(text));
    return;
  }
  for (const Piece& piece : arranged(all_pieces(pass, text), pass.behavior)) {
    if (piece.begin != piece.end) result.push_back(text.substr(piece.begin, piece.end - piece.begin));
  }
}

SplitBehavior parse_behavior(const Json& description, const std::string& where) {
  struct Named {
    std::string_view name;
    SplitBehavior behavior;
  };
  constexpr std::array<Named, 5> kBehaviors{{{"Removed", SplitBehavior::removed},
                                             {"Isolated", SplitBehavior::isolated},
                                             {"MergedWithPrevious", SplitBehavior::merged_with_previous},
                                             {"MergedWithNext", SplitBehavior::merged_with_next},
                                             {"Contiguous", SplitBehavior::contiguous}}};
  const auto word = json_field<std::string>(description, "behavior", where);
  for (const Named& known : kBehaviors) {
    if (known.name == word) return known.behavior;
  }
  throw FormatError(Problem{.where = where + ", field 'behavior'",
                            .expected = "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
                            .found = "'" + word + "'"});
}

std::string parse_pattern(const Json& description, const std::string& where) {
  const Json pattern = json_field<Json>(description, "pattern", where);
  if (pattern.is_object() && pattern.contains("Regex")) return json_field<std::string>(pattern, "Regex", where);
  return escape_regex(json_field<std::string>(pattern, "String", where));
}

SplitPass digits_pass(const Json& description, const std::string& where) {
  const bool individual = json_field_or(description, "individual_digits", false, where);
  return {.pattern = Regex(individual ? R"(\p{N})" : R"(\p{N}+)", where)};
}

SplitPass split_pass(const Json& description, const std::string& where) {
  return {.pattern = Regex(parse_pattern(description, where), where + ", field 'pattern'"),
          .behavior = parse_behavior(description, where),
          .invert = json_field_or(description, "invert", false, where)};
}

SplitPass byte_level_pass(const Json& description, const std::string& where) {
  SplitPass pass{.prefix_space = json_field_or(description, "add_prefix_space", true, where)};
  if (json_field_or(description, "use_regex", true, where)) pass.pattern = Regex(kByteLevelPattern, where);
  return pass;
}

}  // namespace

PreTokenizer::PreTokenizer(const Json& description, const std::string& where) {
  if (!description.is_null()) add(description, where);
  if (!byte_level_) {
    throw FormatError(Problem{.where = where,
                              .expected = "a pre-tokenizer that ends with ByteLevel",
                              .found = description.is_null() ? "none" : "another one",
                              .fix = "thaw reads byte-level BPE from tokenizer.json, and SentencePiece from "
                                     "tokenizer.model."});
  }
}

void PreTokenizer::add(const Json& description, const std::string& where) {
  const auto type = json_field<std::string>(description, "type", where);
  const std::string at = where + ", " + type;
  if (type == "Sequence") {
    for (const Json& part : json_field<std::vector<Json>>(description, "pretokenizers", at)) add(part, at);
    return;
  }
  if (byte_level_) {
    throw FormatError(Problem{.where = at, .expected = "nothing after ByteLevel", .found = type});
  }
  if (type == "Digits") {
    passes_.push_back(digits_pass(description, at));
  } else if (type == "Split") {
    passes_.push_back(split_pass(description, at));
  } else if (type == "ByteLevel") {
    passes_.push_back(byte_level_pass(description, at));
    byte_level_ = true;
  } else {
    throw FormatError(Problem{.where = where,
                              .expected = "Sequence, Digits, Split or ByteLevel",
                              .found = "the pre-tokenizer '" + type + "'"});
  }
}

std::vector<std::string> PreTokenizer::split(std::string_view text) const {
  std::vector<std::string> pieces;
  if (!text.empty()) pieces.emplace_back(text);
  for (const SplitPass& pass : passes_) {
    std::vector<std::string> next;
    for (std::string& piece : pieces) split_piece(pass, std::move(piece), next);
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace thaw::detail
