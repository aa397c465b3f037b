/// The frozen prefix, computed once: what lives at a cut of a policy's line of stages, kept per frame in memory and on
/// disk. It knows no model, no dataset and no trainer; what is cut where is the caller's.
///
/// On disk: <folder>/<first 16 hex digits of the identity's digest>/shard-000001.safetensors, … A shard is an ordinary
/// safetensors file: tensors "<number of entry>/<key>" (int8 scales "<number of entry>#scale/<key>"), and in its
/// metadata the schema, the identity with its fields, and per entry its key and the SHA-256 of what it holds. Shards
/// are written atomically and never rewritten; caches of several identities lie side by side.
///
/// Shards are read with pread, not mapped: a mapped file that somebody truncates ends the process with SIGBUS, and
/// mapped pages count as the process' memory, which is what a cache is meant to save. The kernel keeps the pages of
/// recently read shards either way.
///
/// The digest of an entry covers the identity, its key, the names, dtypes and shapes of its tensors, and their bytes:
/// nothing read from a shard is handed out before it has been compared. It detects damage; it is no signature, so a
/// cache folder must be as trustworthy as the checkpoints beside it.
#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "thaw/cache/entry.h"
#include "thaw/policy/cache_storage.h"

namespace thaw {

struct CacheKey {
  std::int64_t frame = 0;  ///< global frame number in the dataset
  std::string text;        ///< task text, UTF-8; empty where the cut does not depend on it
  std::int64_t view = 0;   ///< number of the augmentation view

  friend std::strong_ordering operator<=>(const CacheKey&, const CacheKey&) = default;
};

/// Everything beside the key that decides what an entry holds, name -> digest or value: weights before the cut, plan,
/// preprocessing, tokenizer, dtype, library build, dataset, … Two caches see each other's entries only when all fields
/// agree. PrefixCache adds the form of storage and the schema of the files.
struct CacheIdentity {
  std::map<std::string, std::string> fields;  ///< UTF-8

  /// SHA-256 over names and values (64 hex digits).
  [[nodiscard]] std::string digest() const;
};

struct CacheOptions {
  std::filesystem::path folder;   ///< empty: memory only
  std::int64_t memory_bytes = 0;  ///< of entries in memory; 0: none are kept there longer than a shard needs to fill
  std::int64_t disk_bytes = 0;    ///< of this identity's shards; counts only with a folder
  std::int64_t shard_bytes = std::int64_t{64} << 20;  ///< an open shard is committed at this size, or at an eighth of
                                                      ///< disk_bytes when that is less
  CacheStorage storage = CacheStorage::exact;

  /// @throws UsageError naming the field, its value and its range
  void validate() const;
};

struct CacheStatistics {
  std::int64_t entries = 0;       ///< that contains() knows
  std::int64_t shards = 0;        ///< files of this identity, unreadable ones included
  std::int64_t memory_bytes = 0;  ///< entries in memory, those of the open shard included
  std::int64_t disk_bytes = 0;    ///< sizes of the shards
  std::int64_t hits = 0;
  std::int64_t disk_hits = 0;  ///< those of the hits that were read from a shard
  std::int64_t misses = 0;
  std::int64_t stored = 0;   ///< entries taken by store()
  std::int64_t evicted = 0;  ///< entries given up for a budget, or because they could not be written
  std::int64_t damaged = 0;  ///< entries found damaged or unreadable (each is a miss as well)
};

/// Thread safe: loader threads find() while the training thread stores. No lock is held while a file is read or
/// written.
///
/// Memory holds the least bytes that give back an entry (its form of storage). Every entry stored or found enters it;
/// beyond memory_bytes the least recently used leaves. With a folder, entries are also gathered in an open shard, which
/// stays in memory until it is committed: up to two of shard_bytes are held so, beyond memory_bytes if need be. Beyond
/// disk_bytes the shard whose entries were least recently used is deleted (shards without a readable entry first).
///
/// Of several caches on one folder and identity, the first writes. The others say so, read the shards that were
/// committed when they were opened, and keep their own entries in memory.
class PrefixCache {
 public:
  /// Reads the headers of the identity's shards. A shard that is damaged, cut off, malformed or of another identity is
  /// skipped with a warning, and goes first when the disk budget needs room.
  /// @throws UsageError for bad options or an identity without fields; IoError when the folder cannot be made or listed
  PrefixCache(CacheIdentity identity, CacheOptions options);
  /// Commits the open shard.
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// May be wrong in one way: an entry whose shard was damaged or deleted is known until find() meets it.
  [[nodiscard]] bool contains(const CacheKey& key) const;

  /// The entry in the dtypes it was stored from, on the CPU; the caller may write into it. Its tensors may share one
  /// allocation, which lives as long as any of them. nullopt: recompute; it is unknown, or was found damaged (counted,
  /// forgotten, and said once per shard).
  [[nodiscard]] std::optional<CacheEntry> find(const CacheKey& key);

  /// Keeps a copy. A key that is known already keeps what it has. An entry larger than the budgets is not kept. Failed
  /// writes (a full disk) are said once; the entries then stay in memory as far as the budget allows, and later shards
  /// are tried again when there is room.
  /// @throws UsageError for an entry that cannot be written: no tensors, a tensor without leading 1, of a dtype
  /// safetensors has no name for, a key of more than 512 bytes, a text of more than 64 KiB, or either no UTF-8
  void store(const CacheKey& key, const CacheEntry& entry);

  /// Commits the open shard: what was stored before is on disk when this returns, unless a warning said otherwise.
  void flush();

  [[nodiscard]] CacheStatistics statistics() const;
  /// Of this identity's shards; empty in memory only.
  [[nodiscard]] const std::filesystem::path& folder() const noexcept;
  /// Whether this cache commits shards: it has a folder that no other cache writes to.
  [[nodiscard]] bool writes() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw
