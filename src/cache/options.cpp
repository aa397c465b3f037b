// What a cache is asked for: its budgets, its form of storage, its identity.
#include <fmt/format.h>

#include <string_view>

#include "thaw/cache/prefix_cache.h"
#include "thaw/core/error.h"
#include "thaw/core/sha256.h"

namespace thaw {
namespace {

void check_bytes(std::string_view field, std::int64_t value, std::int64_t least) {
  if (value >= least) return;
  throw UsageError(Problem{.where = fmt::format("CacheOptions::{}", field),
                           .expected = fmt::format("at least {} bytes", least),
                           .found = std::to_string(value)});
}

}  // namespace

// Lengths go before what they count: no two identities run together to the same bytes.
std::string CacheIdentity::digest() const {
  Sha256 sha;
  for (const auto& [name, value] : fields) {
    sha.update(fmt::format("{}:{}={}:", name.size(), name, value.size())).update(value);
  }
  return sha.hex();
}

void CacheOptions::validate() const {
  check_bytes("memory_bytes", memory_bytes, folder.empty() ? 1 : 0);
  check_bytes("disk_bytes", disk_bytes, folder.empty() ? 0 : 1);
  check_bytes("shard_bytes", shard_bytes, 1);
}

}  // namespace thaw
