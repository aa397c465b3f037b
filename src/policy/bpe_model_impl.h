/// The "model" of a tokenizer.json: byte-level byte-pair encoding.
/// Reference: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016; the byte
/// alphabet is GPT-2's; the order of merges is that of huggingface/tokenizers, src/models/bpe/word.rs.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "thaw/core/json.h"

namespace thaw::detail {

class BpeModel {
 public:
  /// @throws FormatError naming the option that thaw does not know, or the bad vocabulary or merge entry
  BpeModel(const Json& description, const std::string& where);

  /// Appends the ids of one piece of raw bytes.
  void encode(std::string_view piece, std::vector<std::int64_t>& ids) const;
  /// Id of a token in the vocabulary's own spelling (byte alphabet).
  [[nodiscard]] std::optional<std::int64_t> id_of(const std::string& token) const;
  [[nodiscard]] std::int64_t size() const noexcept { return static_cast<std::int64_t>(vocabulary_.size()); }
  [[nodiscard]] std::int64_t largest_id() const noexcept { return largest_id_; }

 private:
  struct Merge {
    std::int64_t rank = 0;
    std::int64_t id = 0;  ///< of the merged token
  };

  void read_vocabulary(const Json& description, const std::string& where);
  void read_merges(const Json& description, const std::string& where);
  void add_merge(const std::string& left, const std::string& right, std::int64_t rank, const std::string& where);
  [[nodiscard]] const Merge* find_merge(std::int64_t left, std::int64_t right) const;
  [[nodiscard]] std::vector<std::int64_t> byte_ids(std::string_view piece) const;
  void merge_all(const std::vector<std::int64_t>& symbols, std::vector<std::int64_t>& ids) const;

  std::unordered_map<std::string, std::int64_t> vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;  ///< under (left id << 32 | right id)
  std::array<std::optional<std::int64_t>, 256> byte_id_;
  std::optional<std::int64_t> unknown_id_;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
  std::int64_t largest_id_ = -1;
};

}  // namespace thaw::detail
