#include <torch/nn/module.h>

#include "policy_impl.h"
#include "pruned_impl.h"
#include "thaw/models/smolvla/layout.h"
#include "thaw/policy/removal.h"

namespace thaw::smolvla {
namespace {

std::int64_t count(const BlockLists& removed, const std::string& stack) {
  const auto found = removed.find(stack);
  return found == removed.end() ? 0 : static_cast<std::int64_t>(found->second.size());
}

}  // namespace

std::int64_t attention_period(const SmolVLAConfig& config) {
  bool all_alike = true;
  for (std::int64_t layer = 1; layer < config.language_layers(); ++layer) {
    all_alike = all_alike && config.self_attention_at(layer) == config.self_attention_at(0);
  }
  return all_alike ? 1 : config.self_attn_every_n_layers;
}

SmolVLAConfig pruned_config(SmolVLAConfig config, const BlockLists& removed) {
  const std::int64_t expert = config.expert_layers() - count(removed, "expert");
  config.num_vlm_layers = config.language_layers() - count(removed, "language");
  // LeRobot's "as many as the language model has" stays right when both lose the same blocks.
  if (config.num_expert_layers > 0) config.num_expert_layers = expert;
  config.vlm.vision.layers -= count(removed, "vision");
  config.validate();
  if (!config.config_json.is_null()) {
    config.config_json["num_vlm_layers"] = config.num_vlm_layers;
    if (config.num_expert_layers > 0) config.config_json["num_expert_layers"] = config.num_expert_layers;
  }
  return config;
}

std::shared_ptr<Policy> SmolVLAPolicy::without_blocks(const BlockLists& removed) const {
  check_removal(layout(), removed);
  const SmolVLAConfig smaller = pruned_config(config(), removed);
  const std::vector<NamedTensor> weights = remaining_weights(layout(), *module(), removed);
  ModelLayout smaller_layout = smolvla_layout(smaller);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    smaller_layout.parameters.at(i).dtype = weights[i].tensor.scalar_type();
  }
  return SmolVLAPolicy::make(smaller, std::move(smaller_layout), weights, preprocessor_, postprocessor_,
                             std::filesystem::path());
}

}  // namespace thaw::smolvla
