#include "thaw/cache/entry.h"

namespace thaw {

std::int64_t CacheEntry::bytes() const {
  std::int64_t sum = 0;
  for (const auto& [key, tensor] : tensors) sum += static_cast<std::int64_t>(tensor.nbytes());
  return sum;
}

}  // namespace thaw
