#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "../batch_inputs_impl.h"
#include "../weights_impl.h"
#include "policy_impl.h"
#include "thaw/models/pi0/inputs.h"
#include "thaw/nn/parameter_tree.h"
#include "thaw/policy/adapters.h"
#include "thaw/policy/processor_steps.h"

namespace thaw::pi0 {
namespace {

models::FlowShape shape_of(const Pi0Config& config) {
  return {.chunk = config.chunk_size,
          .padded_width = config.max_action_dim,
          .width = config.action_dim(),
          .steps = config.num_inference_steps,
          .actions_to_aloha = config.adapt_to_pi_aloha,
          .time = {.alpha = config.time_alpha, .scale = config.time_scale, .offset = config.time_offset}};
}

}  // namespace

std::shared_ptr<Pi0Policy> Pi0Policy::make(const Pi0Config& config, ModelLayout layout,
                                           std::span<const NamedTensor> weights, ProcessorPipeline preprocessor,
                                           ProcessorPipeline postprocessor, std::filesystem::path source) {
  std::shared_ptr<torch::nn::Module> module = nn::make_parameter_tree(weights);
  auto network = std::make_shared<const Network>(config, models::network_parameters(layout, *module));
  std::vector<Stage> line = build_line(network->config(), network);
  models::FlowParts parts{.layout = std::move(layout),
                          .module = std::move(module),
                          .line = std::move(line),
                          .shape = shape_of(config),
                          .keys = {.noisy_actions = keys::kNoisyActions,
                                   .time = keys::kTime,
                                   .velocity = keys::kVelocity,
                                   .batch_like = keys::kSuffixMask},
                          .preprocessor = std::move(preprocessor),
                          .postprocessor = std::move(postprocessor),
                          .source = std::move(source)};
  return std::shared_ptr<Pi0Policy>(new Pi0Policy(std::move(network), std::move(parts)));
}

PrefixState Pi0Policy::begin(const Batch& batch) const {
  const CameraInputs cameras = camera_inputs(config(), batch);
  PrefixState prefix = begin_without_images(batch);
  const at::Tensor& tokens = prefix.at(keys::kTokens);
  models::require_shape(kTokensKey, tokens, {cameras.pixels.size(0), tokens.size(1)});
  prefix.set(keys::kPixels, cameras.pixels);
  prefix.set(keys::kCameraMask, cameras.mask);
  return prefix;
}

PrefixState Pi0Policy::begin_without_images(const Batch& batch) const {
  const models::TokenInputs text = models::token_inputs(batch, config().sizes.vocabulary);
  PrefixState prefix;
  prefix.set(keys::kTokens, text.tokens);
  prefix.set(keys::kTokenMask, text.mask);
  if (config().is_pi05()) return prefix;
  const at::Tensor state = state_input(config(), batch);
  models::require_shape(models::kStateKey, state, {text.tokens.size(0), config().max_state_dim});
  prefix.set(keys::kState, state);
  return prefix;
}

at::Tensor Pi0Policy::action_target(const Batch& batch) const { return pi0::action_target(config(), batch); }

at::Tensor Pi0Policy::ignored_steps(const Batch& /*batch*/) const { return {}; }

std::shared_ptr<Policy> Pi0Policy::with_adapters(std::span<const Adapter> adapters, std::uint64_t seed) const {
  ModelLayout adapted = thaw::with_adapters(layout(), adapters);
  const std::vector<NamedTensor> weights = adapted_weights(adapted, *module(), seed);
  return make(config(), std::move(adapted), weights, preprocessor_, postprocessor_, source());
}

Json Pi0Policy::config_json() const { return pi0_config_json(config()); }

Json Pi0Policy::backbone_json() const { return pi0_vlm_config_json(config()); }

}  // namespace thaw::pi0
