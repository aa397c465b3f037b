#include "thaw/train/shared_caches.h"

#include <fmt/format.h>

namespace thaw {

std::shared_ptr<PrefixCache> SharedCaches::open(const CacheIdentity& identity, const CacheOptions& options) {
  const std::lock_guard lock(mutex_);
  const std::string key = fmt::format("{} {}", cache_storage_name(options.storage), identity.digest());
  std::shared_ptr<PrefixCache>& cache = caches_[key];
  if (!cache) cache = std::make_shared<PrefixCache>(identity, options);
  return cache;
}

}  // namespace thaw
