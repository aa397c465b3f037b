/// Prefix caches that several trainings of one process share: those of equal identity and storage are one cache.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "thaw/cache/prefix_cache.h"

namespace thaw {

/// Thread safe. A cache lives as long as this object or a training that uses it.
class SharedCaches {
 public:
  /// The cache of this identity and storage, opened with `options` the first time. @throws as PrefixCache
  [[nodiscard]] std::shared_ptr<PrefixCache> open(const CacheIdentity& identity, const CacheOptions& options);

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<PrefixCache>> caches_;
};

}  // namespace thaw
