#include <utility>

#include "entry_index_impl.h"

namespace thaw::detail {

std::optional<Found> EntryIndex::use(const CacheKey& key) {
  const auto found = records_.find(key);
  if (found == records_.end()) return std::nullopt;
  Record& record = found->second;
  if (in_memory(record) && !record.pending) recency_.splice(recency_.begin(), recency_, record.recent);
  return Found{.block = record.block, .place = record.place};
}

void EntryIndex::add_in_memory(const CacheKey& key, Block block) {
  const auto found = records_.try_emplace(key).first;
  Record& record = found->second;
  if (in_memory(record)) return;
  memory_bytes_ += block.size();
  record.block = std::move(block);
  record.recent = recency_.insert(recency_.begin(), &found->first);
}

void EntryIndex::add_pending(const CacheKey& key, Block block) {
  Record& record = records_.try_emplace(key).first->second;
  if (in_memory(record)) return;
  memory_bytes_ += block.size();
  record.block = std::move(block);
  record.pending = true;
}

void EntryIndex::settle(const CacheKey& key) {
  const auto found = records_.find(key);
  if (found == records_.end() || !found->second.pending) return;
  found->second.pending = false;
  found->second.recent = recency_.insert(recency_.begin(), &found->first);
}

void EntryIndex::add_on_disk(std::shared_ptr<const Place> place) {
  Record& record = records_[place->stored.key];
  leave_shard(record);
  ++place->shard->live;
  record.place = std::move(place);
}

void EntryIndex::forget(const CacheKey& key, const Shard& shard) {
  const auto found = records_.find(key);
  if (found == records_.end() || found->second.place == nullptr || found->second.place->shard.get() != &shard) return;
  leave_shard(found->second);
  erase_if_nowhere(found);
}

std::int64_t EntryIndex::forget_all(const Shard& shard) {
  std::int64_t erased = 0;
  for (auto record = records_.begin(); record != records_.end();) {
    const auto current = record++;
    if (current->second.place == nullptr || current->second.place->shard.get() != &shard) continue;
    leave_shard(current->second);
    erased += erase_if_nowhere(current) ? 1 : 0;
  }
  return erased;
}

std::int64_t EntryIndex::trim(std::int64_t budget) {
  std::int64_t erased = 0;
  while (memory_bytes_ > budget && !recency_.empty()) {
    const auto record = records_.find(*recency_.back());
    recency_.pop_back();
    memory_bytes_ -= record->second.block.size();
    record->second.block = {};
    erased += erase_if_nowhere(record) ? 1 : 0;
  }
  return erased;
}

void EntryIndex::leave_shard(Record& record) {
  if (record.place == nullptr) return;
  --record.place->shard->live;
  record.place.reset();
}

bool EntryIndex::erase_if_nowhere(Records::iterator record) {
  if (in_memory(record->second) || record->second.place != nullptr) return false;
  records_.erase(record);
  return true;
}

}  // namespace thaw::detail
