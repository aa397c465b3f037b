#include <vector>

#include "missing_key_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw::detail {

void throw_missing_key(std::string_view where, const std::string& key, std::string_view expected,
                       const std::map<std::string, at::Tensor>& tensors) {
  std::vector<std::string> names;
  names.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  throw MismatchError(Problem{.where = std::string(where) + " '" + key + "'",
                              .expected = std::string(expected),
                              .found = names.empty() ? "no tensors at all" : "no such key",
                              .fix = names.empty() ? std::string{} : suggest(key, names)});
}

}  // namespace thaw::detail
