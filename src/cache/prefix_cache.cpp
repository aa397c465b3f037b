#include "thaw/cache/prefix_cache.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

#include "block_impl.h"
#include "entry_index_impl.h"
#include "shard_folder_impl.h"
#include "shard_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/log.h"
#include "thaw/tensor/dtype.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {
namespace {

namespace fs = std::filesystem;

using detail::Block;
using detail::EntryIndex;
using detail::PendingEntry;
using detail::Place;
using detail::Shard;
using detail::ShardFolder;

constexpr std::size_t kLongestKey = 512;
constexpr std::size_t kLongestText = std::size_t{64} << 10;
constexpr std::size_t kLargestHeader = std::size_t{8} << 20;  // of a shard of many small entries
constexpr std::int64_t kShardsInBudget = 8;

// Checked before anything is kept, so that no shard fails to be written for what one entry holds.
void check_storable(const CacheKey& key, const CacheEntry& entry) {
  const auto refuse = [&](const std::string& what, std::string expected, std::string found) {
    throw UsageError(Problem{.where = fmt::format("the cache entry of frame {}, {}", key.frame, what),
                             .expected = std::move(expected),
                             .found = std::move(found)});
  };
  if (entry.tensors.empty()) refuse("tensors", "at least one", "none");
  if (key.text.size() > kLongestText) {
    refuse("text", fmt::format("at most {} bytes", kLongestText), std::to_string(key.text.size()));
  }
  detail::check_utf8(key.text, fmt::format("the text of frame {}", key.frame));
  for (const auto& [name, tensor] : entry.tensors) {
    if (name.size() > kLongestKey) {
      refuse("keys", fmt::format("at most {} bytes", kLongestKey), std::to_string(name.size()));
    }
    detail::check_utf8(name, fmt::format("a key of frame {}", key.frame));
    const bool dense = tensor.defined() && tensor.layout() == at::kStrided && !tensor.is_quantized();
    if (!dense) refuse(fmt::format("'{}'", name), "a dense tensor", tensor.defined() ? "another" : "an undefined one");
    const bool one = tensor.dim() > 0 && tensor.size(0) == 1;
    const bool deep = tensor.dim() > static_cast<std::int64_t>(SafetensorsLimits{}.max_rank);
    if (!one || deep) {
      refuse(fmt::format("'{}'", name), "one sample (1, …) of at most 8 dimensions",
             fmt::format("({})", fmt::join(tensor.sizes(), ", ")));
    }
    static_cast<void>(safetensors_dtype_name(tensor.scalar_type()));
  }
}

void check_identity(const CacheIdentity& identity) {
  if (identity.fields.empty()) {
    throw UsageError("CacheIdentity: expected the fields that decide what entries hold, found none");
  }
  for (const auto& [name, value] : identity.fields) {
    detail::check_utf8(name, "a name in CacheIdentity");
    detail::check_utf8(value, fmt::format("CacheIdentity, '{}'", name));
  }
}

CacheIdentity with_form(CacheIdentity identity, CacheStorage storage) {
  identity.fields.insert_or_assign("cache.schema", std::string(detail::kShardSchema));
  identity.fields.insert_or_assign("cache.storage", std::string(cache_storage_name(storage)));
  return identity;
}

bool still_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error) || error;
}

void delete_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error) log_warning(fmt::format("prefix cache: {} cannot be deleted: {}", path.string(), error.message()));
}

}  // namespace

struct PrefixCache::Impl {
  enum class When { full, always };

  Impl(CacheIdentity of, CacheOptions with)
      : options(std::move(with)), identity(with_form(std::move(of), options.storage)), digest(identity.digest()) {
    if (options.folder.empty()) return;
    constexpr std::size_t kFolderDigits = 16;
    folder.emplace(options.folder / digest.substr(0, kFolderDigits));
    for (const auto& shard : folder->shards()) read_headers(shard);
    if (folder->writes()) make_room(0);
  }

  // ---- opening ----

  void read_headers(const std::shared_ptr<Shard>& shard) {
    try {
      for (auto& stored : detail::read_shard(shard->path, digest, layouts)) add_on_disk(shard, std::move(stored));
      folder->use(*shard);
    } catch (const Error& error) {
      if (still_there(shard->path)) {
        log_warning(
            fmt::format("prefix cache: a shard is skipped, and its entries are computed again: {}", error.what()));
      }
    }
  }

  void add_on_disk(const std::shared_ptr<Shard>& shard, detail::StoredEntry stored) {
    index.add_on_disk(std::make_shared<const Place>(Place{.shard = shard, .stored = std::move(stored)}));
  }

  // ---- finding ----

  std::optional<CacheEntry> find(const CacheKey& key) {
    std::optional<detail::Found> found = look_up(key);
    if (!found) return std::nullopt;
    if (found->block.bytes.defined()) return detail::unpack(found->block, detail::Sharing::with_cache);
    return read(key, *found->place);
  }

  std::optional<detail::Found> look_up(const CacheKey& key) {
    const std::lock_guard lock(mutex);
    std::optional<detail::Found> found = index.use(key);
    if (!found) {
      ++counts.misses;
      return std::nullopt;
    }
    if (found->place != nullptr) folder->use(*found->place->shard);
    if (found->block.bytes.defined()) ++counts.hits;
    return found;
  }

  std::optional<CacheEntry> read(const CacheKey& key, const Place& place) {
    try {
      const Block block = detail::read_entry(place.shard->path, place.stored, digest);
      CacheEntry entry = detail::unpack(block, keep(key, block));
      return entry;
    } catch (const Error& error) {
      give_up(key, *place.shard, error);
      return std::nullopt;
    }
  }

  detail::Sharing keep(const CacheKey& key, const Block& block) {
    const std::lock_guard lock(mutex);
    ++counts.hits;
    ++counts.disk_hits;
    if (block.size() > options.memory_bytes) return detail::Sharing::none;
    index.add_in_memory(key, block);
    counts.evicted += index.trim(options.memory_bytes);
    return detail::Sharing::with_cache;
  }

  void give_up(const CacheKey& key, Shard& shard, const Error& error) {
    const bool gone = !still_there(shard.path);
    const std::lock_guard lock(mutex);
    ++counts.misses;
    index.forget(key, shard);
    if (gone) {
      folder->remove(shard);
      return;
    }
    ++counts.damaged;
    if (std::exchange(shard.complained, true)) return;
    log_warning(fmt::format("prefix cache: damage was found, and what is damaged is computed again: {}", error.what()));
  }

  // ---- storing ----

  void store(const CacheKey& key, const CacheEntry& entry) {
    check_storable(key, entry);
    if (contains(key)) return;
    Block block = detail::pack(entry, options.storage);
    block.layout = layouts.intern(block.layout);
    if (folder && folder->writes() && block.size() <= options.disk_bytes) {
      add_pending({.key = key, .block = block, .sha256 = detail::entry_digest(digest, key, block)});
      commit(When::full);
    } else {
      add_in_memory(key, std::move(block));
    }
  }

  bool contains(const CacheKey& key) const {
    const std::lock_guard lock(mutex);
    return index.contains(key);
  }

  void add_pending(PendingEntry entry) {
    const std::lock_guard lock(mutex);
    if (index.contains(entry.key)) return;
    index.add_pending(entry.key, entry.block);
    open_bytes += entry.block.size();
    open_header += entry.header_bytes();
    open.push_back(std::move(entry));
    ++counts.stored;
    counts.evicted += index.trim(options.memory_bytes);
  }

  void add_in_memory(const CacheKey& key, Block block) {
    const std::lock_guard lock(mutex);
    if (index.contains(key)) return;
    if (block.size() > options.memory_bytes) return warn_of_size(block.size());
    index.add_in_memory(key, std::move(block));
    ++counts.stored;
    counts.evicted += index.trim(options.memory_bytes);
  }

  void warn_of_size(std::int64_t bytes) {
    if (std::exchange(complained_of_size, true)) return;
    log_warning(fmt::format("prefix cache: an entry of {} bytes is larger than the budget; such are not kept", bytes));
  }

  // ---- committing ----

  std::int64_t shard_target() const {
    return std::min(options.shard_bytes, std::max<std::int64_t>(options.disk_bytes / kShardsInBudget, 1));
  }

  /// One shard is written at a time; whoever fills the next one meanwhile waits here.
  void commit(When when) {
    const std::lock_guard writing(commit_mutex);
    const std::vector<PendingEntry> batch = take_open(when);
    if (batch.empty()) return;
    fs::path path;
    {
      const std::lock_guard lock(mutex);
      path = folder->next_path();
    }
    make_room(bytes_of(batch));
    settle(batch, write(path, batch));
    make_room(0);
  }

  std::vector<PendingEntry> take_open(When when) {
    const std::lock_guard lock(mutex);
    const bool full = open_bytes >= shard_target() || open_header >= kLargestHeader;
    if (when == When::full && !full) return {};
    open_bytes = 0;
    open_header = 0;
    return std::exchange(open, {});
  }

  static std::int64_t bytes_of(const std::vector<PendingEntry>& batch) {
    std::int64_t sum = 0;
    for (const PendingEntry& entry : batch) sum += entry.block.size();
    return sum;
  }

  struct Written {
    fs::path path;
    std::int64_t bytes = 0;
    std::vector<detail::StoredEntry> entries;
  };

  /// nullopt when it failed, which is said once.
  std::optional<Written> write(const fs::path& path, const std::vector<PendingEntry>& batch) {
    try {
      const auto room = static_cast<std::int64_t>(free_bytes(path));
      if (complained_of_disk && room < 2 * bytes_of(batch)) return std::nullopt;
      detail::write_shard(path, identity, batch);
      return Written{.path = path,
                     .bytes = static_cast<std::int64_t>(InputFile(path).size()),
                     .entries = detail::read_shard(path, digest, layouts)};
    } catch (const Error& error) {
      std::error_code ignored;
      fs::remove(path, ignored);
      if (!std::exchange(complained_of_disk, true)) {
        log_warning(
            fmt::format("prefix cache: a shard could not be written; entries stay in memory as far as its "
                        "budget goes, and the disk is tried again: {}",
                        error.what()));
      }
      return std::nullopt;
    }
  }

  void settle(const std::vector<PendingEntry>& batch, std::optional<Written> written) {
    const std::lock_guard lock(mutex);
    if (written) {
      const auto shard = folder->add(written->path, written->bytes);
      for (auto& stored : written->entries) add_on_disk(shard, std::move(stored));
    }
    for (const PendingEntry& entry : batch) index.settle(entry.key);
    counts.evicted += index.trim(options.memory_bytes);
  }

  void make_room(std::int64_t more) {
    std::vector<std::shared_ptr<Shard>> leaving;
    {
      const std::lock_guard lock(mutex);
      leaving = folder->make_room(more, options.disk_bytes);
      for (const auto& shard : leaving) counts.evicted += index.forget_all(*shard);
    }
    for (const auto& shard : leaving) delete_file(shard->path);
  }

  CacheStatistics statistics() const {
    const std::lock_guard lock(mutex);
    CacheStatistics now = counts;
    now.entries = index.size();
    now.memory_bytes = index.memory_bytes();
    now.shards = folder ? static_cast<std::int64_t>(folder->shards().size()) : 0;
    now.disk_bytes = folder ? folder->bytes() : 0;
    return now;
  }

  const CacheOptions options;
  const CacheIdentity identity;
  const std::string digest;
  detail::LayoutTable layouts;

  std::mutex commit_mutex;          // taken before `mutex`
  bool complained_of_disk = false;  // under commit_mutex

  mutable std::mutex mutex;  // everything below
  std::optional<ShardFolder> folder;
  EntryIndex index;
  std::vector<PendingEntry> open;
  std::int64_t open_bytes = 0;
  std::size_t open_header = 0;
  bool complained_of_size = false;
  CacheStatistics counts;
};

PrefixCache::PrefixCache(CacheIdentity identity, CacheOptions options) {
  options.validate();
  check_identity(identity);
  impl_ = std::make_unique<Impl>(std::move(identity), std::move(options));
}

PrefixCache::~PrefixCache() {
  try {
    flush();
  } catch (const std::exception& error) {
    log_warning(fmt::format("prefix cache: the last shard was not written: {}", error.what()));
  }
}

bool PrefixCache::contains(const CacheKey& key) const { return impl_->contains(key); }

std::optional<CacheEntry> PrefixCache::find(const CacheKey& key) { return impl_->find(key); }

void PrefixCache::store(const CacheKey& key, const CacheEntry& entry) { impl_->store(key, entry); }

void PrefixCache::flush() {
  if (writes()) impl_->commit(Impl::When::always);
}

CacheStatistics PrefixCache::statistics() const { return impl_->statistics(); }

const fs::path& PrefixCache::folder() const noexcept {
  static const fs::path none;
  return impl_->folder ? impl_->folder->path() : none;
}

bool PrefixCache::writes() const noexcept { return impl_->folder && impl_->folder->writes(); }

}  // namespace thaw
