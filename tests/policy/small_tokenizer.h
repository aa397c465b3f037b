/// Small tokenizers for tests, written as files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace thaw::test {

/// The byte alphabet of GPT-2, spelled for a vocabulary.
inline std::string spelled_byte(unsigned byte) {
  const auto printable = [](unsigned b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  unsigned code = byte;
  if (!printable(byte)) {
    code = 0x100;
    for (unsigned b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

/// A tokenizer.json whose bytes have their own value for id; merges: "ab" 256, "abc" 257, " a" 258, "ll" 259.
inline nlohmann::json small_tokenizer() {
  nlohmann::json vocabulary;
  for (unsigned byte = 0; byte < 256; ++byte) vocabulary[spelled_byte(byte)] = byte;
  const std::string space = spelled_byte(' ');
  vocabulary["ab"] = 256;
  vocabulary["abc"] = 257;
  vocabulary[space + "a"] = 258;
  vocabulary["ll"] = 259;
  const nlohmann::json model{{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"a b", "ab c", space + " a", "l l"}}};
  return {{"version", "1.0"},
          {"added_tokens", nlohmann::json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"model", model}};
}

inline nlohmann::json added_token(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

}  // namespace thaw::test
