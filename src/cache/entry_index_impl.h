/// What a cache knows: for every key, whether its block is in memory, on its way to a shard, or in one.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "block_impl.h"
#include "shard_folder_impl.h"
#include "shard_impl.h"
#include "thaw/cache/prefix_cache.h"

namespace thaw::detail {

/// Where an entry lies on disk.
struct Place {
  std::shared_ptr<Shard> shard;
  StoredEntry stored;
};

/// Copies of what the index holds of a key, usable without its lock.
struct Found {
  Block block;                         ///< undefined bytes when it is not in memory
  std::shared_ptr<const Place> place;  ///< null when it is in no shard
};

/// Not thread safe: its owner guards it.
///
/// Invariant: an entry is in memory, or in a shard, or both; one that is pending is in memory and stays there.
class EntryIndex {
 public:
  [[nodiscard]] bool contains(const CacheKey& key) const { return records_.contains(key); }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(records_.size()); }
  /// Of all blocks in memory.
  [[nodiscard]] std::int64_t memory_bytes() const { return memory_bytes_; }

  /// Makes the entry the most recently used one. nullopt: unknown.
  [[nodiscard]] std::optional<Found> use(const CacheKey& key);

  /// A block that may leave memory when others need the room. Does nothing when it is in memory already.
  void add_in_memory(const CacheKey& key, Block block);
  /// A block that must stay until settle().
  void add_pending(const CacheKey& key, Block block);
  /// The block of a pending entry may leave memory.
  void settle(const CacheKey& key);
  /// An entry of a shard; one that was in an older shard is in the newer one from now on.
  void add_on_disk(std::shared_ptr<const Place> place);

  /// Forgets that `key` is in `shard`, when it is.
  void forget(const CacheKey& key, const Shard& shard);
  /// Forgets every entry of `shard`. Returns how many are nowhere any more.
  std::int64_t forget_all(const Shard& shard);
  /// Drops the least recently used blocks until at most `budget` bytes are in memory, as far as pending ones allow.
  /// Returns how many entries are nowhere any more.
  std::int64_t trim(std::int64_t budget);

 private:
  using Recency = std::list<const CacheKey*>;  // the front was used last
  struct Record {
    Block block;
    std::shared_ptr<const Place> place;
    bool pending = false;
    Recency::iterator recent;  // valid while in memory and not pending
  };
  using Records = std::map<CacheKey, Record>;

  static bool in_memory(const Record& record) { return record.block.bytes.defined(); }
  void leave_shard(Record& record);
  bool erase_if_nowhere(Records::iterator record);

  Records records_;
  Recency recency_;
  std::int64_t memory_bytes_ = 0;
};

}  // namespace thaw::detail
