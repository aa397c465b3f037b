/// The files of a tokenizer folder and the settings that lie beside the vocabulary.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "added_tokens_impl.h"
#include "thaw/core/json.h"
#include "thaw/policy/tokenizer.h"

namespace thaw::detail {

/// What tokenizer_config.json and special_tokens_map.json say. Absent files say nothing.
struct TokenizerSettings {
  std::optional<std::string> pad_token;
  std::optional<TruncationSide> truncation_side;
  std::optional<bool> add_bos;
  std::optional<bool> add_eos;
  std::vector<AddedToken> added_tokens;  ///< of "added_tokens_decoder"
};

/// @throws IoError, FormatError
[[nodiscard]] TokenizerSettings read_tokenizer_settings(const std::filesystem::path& folder);

/// One entry of "added_tokens" or "added_tokens_decoder".
[[nodiscard]] AddedToken parse_added_token(const Json& entry, std::int64_t id, const std::string& where);

/// The files of `names` that `folder` holds.
[[nodiscard]] std::vector<std::filesystem::path> existing_files(const std::filesystem::path& folder,
                                                                std::initializer_list<const char*> names);

/// A tokenizer of files: settings, the files and their digest.
class FileTokenizer : public Tokenizer {
 public:
  FileTokenizer(const std::filesystem::path& folder, const char* vocabulary_file);
  [[nodiscard]] std::int64_t pad_id() const final;
  [[nodiscard]] TruncationSide truncation_side() const final;
  [[nodiscard]] std::string digest() const final { return digest_; }
  [[nodiscard]] std::vector<std::filesystem::path> files() const final { return files_; }

 protected:
  [[nodiscard]] const std::filesystem::path& vocabulary_path() const { return files_.front(); }
  [[nodiscard]] std::string where() const { return vocabulary_path().string(); }

  TokenizerSettings settings_;
  std::optional<std::int64_t> pad_id_;

 private:
  std::vector<std::filesystem::path> files_;
  std::string digest_;
};

/// Readers of the two kinds.
[[nodiscard]] std::shared_ptr<const Tokenizer> load_byte_level_bpe(const std::filesystem::path& folder);
[[nodiscard]] std::shared_ptr<const Tokenizer> load_sentence_piece(const std::filesystem::path& folder);

/// Whether tokenizer.json is a SentencePiece vocabulary in other clothes (byte fallback): then tokenizer.model says it
/// better.
[[nodiscard]] bool is_converted_sentence_piece(const std::filesystem::path& tokenizer_json);

}  // namespace thaw::detail
