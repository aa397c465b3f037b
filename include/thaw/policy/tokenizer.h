/// Text to token ids, exactly as the reference tokenizers do.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace thaw {

enum class TruncationSide { left, right };

/// How many ids encode() puts before and after those of the text: truncation leaves them alone.
struct AddedSpecials {
  std::int64_t before = 0;
  std::int64_t after = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Ids of `text`, without truncation or padding, with the special tokens the reference adds (none for SmolVLM2, a
  /// leading BOS for PaliGemma). `text` is UTF-8. @throws FormatError for invalid UTF-8
  [[nodiscard]] virtual std::vector<std::int64_t> encode(std::string_view text) const = 0;
  [[nodiscard]] virtual std::int64_t vocabulary_size() const = 0;
  /// @throws FormatError when the files name no padding token
  [[nodiscard]] virtual std::int64_t pad_id() const = 0;
  [[nodiscard]] virtual TruncationSide truncation_side() const { return TruncationSide::right; }
  [[nodiscard]] virtual AddedSpecials added_specials() const { return {}; }
  /// SHA-256 of the files it was read from (a cache key).
  [[nodiscard]] virtual std::string digest() const = 0;
  /// The files it was read from; empty for a tokenizer that was made in memory.
  [[nodiscard]] virtual std::vector<std::filesystem::path> files() const { return {}; }
};

/// Reads a folder that holds tokenizer.json (byte-level BPE) or tokenizer.model (SentencePiece), with
/// tokenizer_config.json and special_tokens_map.json used where present. @throws IoError, FormatError
[[nodiscard]] std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& folder);

struct TokenizerSearch {
  std::filesystem::path checkpoint;       ///< its own folder, and its "tokenizer" subfolder
  std::filesystem::path override_folder;  ///< --tokenizer DIR; wins when given
};

/// Finds the tokenizer that a checkpoint calls `name` ("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", or a folder
/// relative to the checkpoint): `override_folder`, then the checkpoint's own folders, then the local Hugging Face cache
/// (HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub: models--org--name/snapshots/*).
/// @throws IoError listing every place it looked
[[nodiscard]] std::shared_ptr<const Tokenizer> find_tokenizer(const std::string& name, const TokenizerSearch& search);

/// Copies tokenizer.files() into `folder`, which must exist (a checkpoint's "tokenizer" subfolder makes it
/// self-contained).
/// @throws IoError
void copy_tokenizer_files(const Tokenizer& tokenizer, const std::filesystem::path& folder);

}  // namespace thaw
