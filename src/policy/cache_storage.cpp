#include "thaw/policy/cache_storage.h"

#include <array>
#include <string>

#include "thaw/core/error.h"

namespace thaw {

CacheStorage parse_cache_storage(std::string_view name) {
  if (name == "fp32") return CacheStorage::exact;
  for (const CacheStorage storage : {CacheStorage::exact, CacheStorage::bf16, CacheStorage::int8}) {
    if (name == cache_storage_name(storage)) return storage;
  }
  throw UsageError(Problem{.where = "the storage of a cache",
                           .expected = "exact (or fp32), bf16 or int8",
                           .found = "'" + std::string(name) + "'"});
}

std::string_view cache_storage_name(CacheStorage storage) {
  constexpr std::array<std::string_view, 3> kNames{"exact", "bf16", "int8"};
  return kNames.at(static_cast<std::size_t>(storage));
}

}  // namespace thaw
