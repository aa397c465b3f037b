#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "../batch_inputs_impl.h"
#include "policy_impl.h"
#include "thaw/models/smolvla/inputs.h"
#include "thaw/nn/parameter_tree.h"
#include "thaw/policy/adapters.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::smolvla {

std::shared_ptr<SmolVLAPolicy> SmolVLAPolicy::make(const SmolVLAConfig& config, ModelLayout layout,
                                                   std::span<const NamedTensor> weights, ProcessorPipeline preprocessor,
                                                   ProcessorPipeline postprocessor, std::filesystem::path source) {
  std::shared_ptr<torch::nn::Module> module = nn::make_parameter_tree(weights);
  auto network = std::make_shared<const Network>(config, models::network_parameters(layout, *module));
  std::vector<Stage> line = build_line(network->config(), network);
  models::FlowParts parts{.layout = std::move(layout),
                          .module = std::move(module),
                          .line = std::move(line),
                          .shape = {.chunk = config.chunk_size,
                                    .padded_width = config.max_action_dim,
                                    .width = config.action_dim(),
                                    .steps = config.num_steps,
                                    .actions_to_aloha = config.adapt_to_pi_aloha},
                          .keys = {.noisy_actions = keys::kNoisyActions,
                                   .time = keys::kTime,
                                   .velocity = keys::kVelocity,
                                   .batch_like = keys::kPrefixMask},
                          .preprocessor = std::move(preprocessor),
                          .postprocessor = std::move(postprocessor),
                          .source = std::move(source)};
  return std::shared_ptr<SmolVLAPolicy>(new SmolVLAPolicy(std::move(network), std::move(parts)));
}

PrefixState SmolVLAPolicy::begin(const Batch& batch) const {
  const CameraInputs cameras = camera_inputs(config(), batch);
  PrefixState prefix = begin_without_images(batch);
  models::require_shape(models::kStateKey, prefix.at(keys::kState), {cameras.pixels.size(0), config().max_state_dim});
  prefix.set(keys::kPixels, cameras.pixels);
  prefix.set(keys::kCameraMask, cameras.mask);
  return prefix;
}

PrefixState SmolVLAPolicy::begin_without_images(const Batch& batch) const {
  const at::Tensor state = state_input(config(), batch);
  const models::TokenInputs text = models::token_inputs(batch, config().vlm.text.vocabulary);
  models::require_shape(kTokensKey, text.tokens, {state.size(0), text.tokens.size(1)});

  PrefixState prefix;
  prefix.set(keys::kTokens, text.tokens);
  prefix.set(keys::kTokenMask, text.mask);
  prefix.set(keys::kState, state);
  return prefix;
}

at::Tensor SmolVLAPolicy::action_target(const Batch& batch) const { return smolvla::action_target(config(), batch); }

at::Tensor SmolVLAPolicy::ignored_steps(const Batch& batch) const {
  if (!batch.has(models::kActionPadKey)) return {};
  const at::Tensor& is_pad = batch.at(models::kActionPadKey);
  const at::Tensor& actions = batch.at(models::kActionKey);
  models::require_shape(models::kActionPadKey, is_pad, {actions.size(0), actions.size(1)});
  return is_pad.to(at::kBool);
}

std::shared_ptr<Policy> SmolVLAPolicy::with_adapters(std::span<const Adapter> adapters, std::uint64_t seed) const {
  ModelLayout adapted = thaw::with_adapters(layout(), adapters);
  const std::vector<NamedTensor> weights = adapted_weights(adapted, *module(), seed);
  return make(config(), std::move(adapted), weights, preprocessor_, postprocessor_, source());
}

Json SmolVLAPolicy::config_json() const { return smolvla_config_json(config()); }

Json SmolVLAPolicy::backbone_json() const { return smolvla_vlm_config_json(config()); }

}  // namespace thaw::smolvla
