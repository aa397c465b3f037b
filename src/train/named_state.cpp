#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "named_state_impl.h"
#include "thaw/core/error.h"
#include "thaw/tensor/dtype.h"

namespace thaw {
namespace {

std::string kind(const at::Tensor& tensor) {
  return fmt::format("{} [{}]", dtype_name(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "));
}

[[noreturn]] void refuse(const std::string& what, const std::string& name, std::string expected, std::string found) {
  throw MismatchError(
      Problem{.where = fmt::format("{}: {}", what, name), .expected = std::move(expected), .found = std::move(found)});
}

}  // namespace

void copy_named_state(const std::map<std::string, at::Tensor>& saved, const std::map<std::string, at::Tensor>& live,
                      const std::string& what) {
  for (const auto& [name, tensor] : live) {
    const auto found = saved.find(name);
    if (found == saved.end()) refuse(what, name, kind(tensor), "nothing under this name");
    if (found->second.sizes() != tensor.sizes() || found->second.scalar_type() != tensor.scalar_type()) {
      refuse(what, name, kind(tensor), kind(found->second));
    }
  }
  for (const auto& entry : saved) {
    if (!live.contains(entry.first)) refuse(what, entry.first, "only tensors that are trained", kind(entry.second));
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : live) at::Tensor(tensor).copy_(saved.at(name));
}

}  // namespace thaw
