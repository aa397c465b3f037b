#include "thaw/policy/policy.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>

#include "thaw/core/error.h"

namespace thaw {

std::vector<TokenGroup> Policy::token_groups(const std::string& stream, const PrefixState& state,
                                             const Batch& /*batch*/) const {
  const at::Tensor& hidden = state.at(stream);
  const at::Tensor rows =
      at::ones(hidden.sizes().slice(0, static_cast<std::size_t>(hidden.dim()) - 1), hidden.options().dtype(at::kBool));
  return {{.name = "token", .rows = rows.view({hidden.size(0), -1})}};
}

std::shared_ptr<Policy> Policy::without_blocks(const BlockLists& /*removed*/) const {
  throw UsageError(Problem{.where = type(),
                           .expected = "a type of policy that can be built without some of its blocks",
                           .fix = "thaw cannot prune this type yet; freezing its blocks works."});
}

std::shared_ptr<Policy> Policy::with_adapters(std::span<const Adapter> /*adapters*/, std::uint64_t /*seed*/) const {
  throw UsageError(Problem{.where = type(),
                           .expected = "a type of policy that can have adapters on its linear layers",
                           .fix = "Train whole blocks of this type instead."});
}

}  // namespace thaw
