#include <torch/nn/module.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "tied_impl.h"

namespace thaw {
namespace {

struct Extent {
  const void* storage = nullptr;
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t order = 0;
  const std::string* name = nullptr;
};

Extent extent_of(const at::Tensor& tensor, const std::string& name, std::size_t order) {
  std::size_t elements = tensor.numel() == 0 ? 0 : 1;  // reach of a strided view, not its number of elements
  for (std::int64_t d = 0; elements != 0 && d < tensor.dim(); ++d) {
    elements += static_cast<std::size_t>((tensor.size(d) - 1) * tensor.stride(d));
  }
  const auto begin = static_cast<std::size_t>(tensor.storage_offset()) * tensor.element_size();
  return {.storage = tensor.storage().unsafeGetStorageImpl(),
          .begin = begin,
          .end = begin + elements * tensor.element_size(),
          .order = order,
          .name = &name};
}

}  // namespace

std::map<std::string, std::string> tied_names(const torch::nn::Module& module) {
  const auto parameters = module.named_parameters();
  std::vector<Extent> extents;
  for (const auto& item : parameters) {
    if (item.value().numel() > 0) extents.push_back(extent_of(item.value(), item.key(), extents.size()));
  }
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.storage, a.begin, a.order) < std::tie(b.storage, b.begin, b.order);
  });

  std::map<std::string, std::string> tied;
  for (std::size_t i = 0; i < extents.size();) {
    std::size_t reach = extents[i].end;
    std::size_t end = i + 1;
    while (end < extents.size() && extents[end].storage == extents[i].storage && extents[end].begin < reach) {
      reach = std::max(reach, extents[end++].end);
    }
    const auto by_order = [](const Extent& a, const Extent& b) { return a.order < b.order; };
    std::sort(extents.begin() + static_cast<std::ptrdiff_t>(i), extents.begin() + static_cast<std::ptrdiff_t>(end),
              by_order);
    for (std::size_t j = i + 1; j < end; ++j) tied[*extents[j].name] = *extents[i].name;
    i = end;
  }
  return tied;
}

}  // namespace thaw
