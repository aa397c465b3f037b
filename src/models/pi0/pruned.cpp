// pi0 and pi0.5 without some of their blocks. Where depths are not those of the Gemma variants, they stand in
// vlm_config.json: LeRobot's config.json has no field for them.
#include <torch/nn/module.h>

#include "policy_impl.h"
#include "thaw/models/pi0/layout.h"
#include "thaw/policy/removal.h"

namespace thaw::pi0 {
namespace {

std::int64_t count(const BlockLists& removed, const std::string& stack) {
  const auto found = removed.find(stack);
  return found == removed.end() ? 0 : static_cast<std::int64_t>(found->second.size());
}

}  // namespace

std::shared_ptr<Policy> Pi0Policy::without_blocks(const BlockLists& removed) const {
  const std::vector<NamedTensor> weights = remaining_weights(layout(), *module(), removed);
  Pi0Config smaller = config();
  smaller.sizes.vision.layers -= count(removed, "vision");
  smaller.sizes.language.depth -= count(removed, "language");
  smaller.sizes.expert.depth -= count(removed, "expert");
  ModelLayout smaller_layout = pi0_layout(smaller);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    smaller_layout.parameters.at(i).dtype = weights[i].tensor.scalar_type();
  }
  return Pi0Policy::make(smaller, std::move(smaller_layout), weights, preprocessor_, postprocessor_,
                         std::filesystem::path());
}

}  // namespace thaw::pi0
