/// One shard: a safetensors file of blocks whose metadata says what each is. See thaw/cache/prefix_cache.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block_impl.h"
#include "thaw/cache/prefix_cache.h"

namespace thaw::detail {

constexpr std::string_view kShardSchema = "1";

/// An entry on its way to a shard.
struct PendingEntry {
  CacheKey key;
  Block block;
  std::string sha256;

  /// About what it adds to the header.
  [[nodiscard]] std::size_t header_bytes() const;
};

/// Bytes that follow each other in a file.
struct Run {
  std::uint64_t begin = 0;
  std::uint64_t bytes = 0;
};

/// Where an entry lies in a shard: the runs, one after the other, are its block.
struct StoredEntry {
  CacheKey key;
  std::shared_ptr<const BlockLayout> layout;
  std::vector<Run> runs;
  std::string sha256;
};

/// One copy of every layout met, since most entries share theirs. Thread safe.
class LayoutTable {
 public:
  [[nodiscard]] std::shared_ptr<const BlockLayout> intern(const std::shared_ptr<const BlockLayout>& layout);

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const BlockLayout>, std::less<>> layouts_;
};

/// SHA-256 over the identity, the key, the layout and the bytes of an entry.
[[nodiscard]] std::string entry_digest(const std::string& identity, const CacheKey& key, const Block& block);

/// @throws UsageError when `text` is no UTF-8
void check_utf8(const std::string& text, const std::string& where);

/// @throws IoError
void write_shard(const std::filesystem::path& path, const CacheIdentity& identity,
                 std::span<const PendingEntry> entries);

/// What a shard holds, from its header alone. `identity` is the digest it must name.
/// @throws IoError; FormatError for anything that write_shard() would not have written; MismatchError for another
/// identity
[[nodiscard]] std::vector<StoredEntry> read_shard(const std::filesystem::path& path, const std::string& identity,
                                                  LayoutTable& layouts);

/// Reads a block and compares its digest. @throws IoError; FormatError when it differs
[[nodiscard]] Block read_entry(const std::filesystem::path& path, const StoredEntry& entry,
                               const std::string& identity);

}  // namespace thaw::detail
