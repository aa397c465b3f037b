#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <numeric>

#include "../weights_impl.h"
#include "policy_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/models/smolvla/inputs.h"
#include "thaw/nn/packed_weights.h"
#include "thaw/nn/parameter_tree.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/random.h"

namespace thaw::smolvla {
namespace {

constexpr const char* kTokensKey = "observation.language.tokens";
constexpr const char* kTokenMaskKey = "observation.language.attention_mask";
constexpr const char* kActionPadKey = "action_is_pad";
constexpr const char* kStateKey = "observation.state";

std::string shape_text(const at::Tensor& tensor) { return fmt::format("({})", fmt::join(tensor.sizes(), ", ")); }

void require_shape(const std::string& where, const at::Tensor& tensor, at::IntArrayRef shape) {
  if (tensor.sizes() == shape) return;
  throw MismatchError(Problem{
      .where = where, .expected = fmt::format("shape ({})", fmt::join(shape, ", ")), .found = shape_text(tensor)});
}

void check_tokens(const at::Tensor& tokens, std::int64_t vocabulary) {
  const bool usable = tokens.dim() == 2 && at::isIntegralType(tokens.scalar_type(), /*includeBool=*/false);
  if (!usable) {
    throw MismatchError(
        Problem{.where = kTokensKey, .expected = "integers (batch, length)", .found = shape_text(tokens)});
  }
  if (tokens.numel() == 0 || !tokens.is_cpu()) return;  // on a device the check would wait for it
  const auto [least, greatest] = at::aminmax(tokens);
  if (least.item<std::int64_t>() >= 0 && greatest.item<std::int64_t>() < vocabulary) return;
  throw MismatchError(Problem{.where = kTokensKey,
                              .expected = fmt::format("ids in 0..{}", vocabulary - 1),
                              .found = fmt::format("{}..{}", least.item<std::int64_t>(), greatest.item<std::int64_t>()),
                              .fix = "The tokenizer is not the one that the policy was made with."});
}

/// One number per element (B, K, T, D) -> the mean over draws and valid steps, of the whole batch or of each sample.
at::Tensor reduce(const at::Tensor& errors, const at::Tensor& is_pad, Reduction reduction) {
  if (!is_pad.defined()) return reduction == Reduction::mean ? errors.mean() : errors.mean({1, 2, 3});
  const at::Tensor valid = is_pad.logical_not();
  const at::Tensor kept = errors * valid.unsqueeze(1).unsqueeze(-1);
  const std::int64_t each = errors.size(1) * errors.size(3);
  if (reduction == Reduction::mean) return kept.sum() / (valid.sum() * each).clamp_min(1);
  return kept.sum({1, 2, 3}) / (valid.sum(1) * each).clamp_min(1);
}

at::Tensor action_padding(const Batch& batch, const at::Tensor& errors) {
  if (!batch.has(kActionPadKey)) return {};
  const at::Tensor& is_pad = batch.at(kActionPadKey);
  require_shape(kActionPadKey, is_pad, {errors.size(0), errors.size(2)});
  return is_pad.to(at::kBool);
}

/// A draw's tensor with its second axis, which may be left out when there is one draw.
at::Tensor with_draw_axis(const at::Tensor& tensor, std::int64_t rank) {
  return tensor.dim() == rank ? tensor : tensor.unsqueeze(1);
}

/// Beta(1.5, 1) by its inverse distribution function u^(2/3), moved off 0: flow matching's time.
float flow_time(double uniform) { return static_cast<float>(0.999 * std::pow(uniform, 2.0 / 3.0) + 0.001); }

}  // namespace

SmolVLAPolicy::SmolVLAPolicy(const SmolVLAConfig& config, ModelLayout layout, std::span<const NamedTensor> weights,
                             ProcessorPipeline preprocessor, ProcessorPipeline postprocessor,
                             std::filesystem::path source)
    : layout_(std::move(layout)),
      module_(nn::make_parameter_tree(weights)),
      network_(std::make_shared<const Network>(config, module_->named_parameters())),
      line_(build_line(network_->config(), network_)),
      first_draw_stage_(smolvla::first_draw_stage(line_)) {
  preprocessor_ = std::move(preprocessor);
  postprocessor_ = std::move(postprocessor);
  source_ = std::move(source);
  auto parameters = module_->named_parameters();
  for (const ParameterInfo& info : layout_.parameters) {
    parameters[info.name].set_requires_grad(info.trainable_by_default);
  }
}

std::vector<std::int64_t> SmolVLAPolicy::action_delta_indices() const {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(config().chunk_size));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

PrefixState SmolVLAPolicy::begin(const Batch& batch) const {
  const CameraInputs cameras = camera_inputs(config(), batch);
  PrefixState prefix = begin_without_images(batch);
  require_shape(kStateKey, prefix.at(keys::kState), {cameras.pixels.size(0), config().max_state_dim});
  prefix.set(keys::kPixels, cameras.pixels);
  prefix.set(keys::kCameraMask, cameras.mask);
  return prefix;
}

PrefixState SmolVLAPolicy::begin_without_images(const Batch& batch) const {
  const at::Tensor state = state_input(config(), batch);
  const at::Tensor& tokens = batch.at(kTokensKey);
  const at::Tensor& token_mask = batch.at(kTokenMaskKey);
  check_tokens(tokens, config().vlm.text.vocabulary);
  require_shape(kTokenMaskKey, token_mask, tokens.sizes());
  require_shape(kTokensKey, tokens, {state.size(0), tokens.size(1)});

  PrefixState prefix;
  prefix.set(keys::kTokens, tokens);
  prefix.set(keys::kTokenMask, token_mask.to(at::kBool));
  prefix.set(keys::kState, state);
  return prefix;
}

Draw SmolVLAPolicy::draw(const Batch& batch, std::uint64_t seed, DrawPurpose purpose, std::uint64_t step,
                         std::int64_t draws) const {
  const bool training = purpose == DrawPurpose::training;
  RandomKey noise_key{.seed = seed, .stream = training ? RandomStream::noise : RandomStream::evaluation_noise};
  RandomKey time_key{.seed = seed, .stream = training ? RandomStream::time : RandomStream::evaluation_time};
  std::vector<at::Tensor> noise;
  std::vector<float> time;
  for (const std::int64_t index : batch.indices) {
    noise_key.sample = time_key.sample = static_cast<std::uint64_t>(index);
    for (std::int64_t k = 0; k < draws; ++k) {
      noise_key.step = time_key.step = step * static_cast<std::uint64_t>(draws) + static_cast<std::uint64_t>(k);
      noise.push_back(random_normal(noise_key, {config().chunk_size, config().max_action_dim}));
      time.push_back(flow_time(random_uniform(time_key, 1).item<double>()));
    }
  }
  if (noise.empty()) throw MismatchError(Problem{.where = "batch", .expected = "at least one sample"});
  const at::Device device = batch.has(kStateKey) ? batch.at(kStateKey).device() : at::Device(at::kCPU);
  const Draw flat{.noise = at::stack(noise).to(device), .time = at::tensor(time).to(device)};
  if (draws == 1) return flat;
  const auto size = static_cast<std::int64_t>(batch.indices.size());
  return {.noise = flat.noise.view({size, draws, config().chunk_size, config().max_action_dim}),
          .time = flat.time.view({size, draws})};
}

void SmolVLAPolicy::add_draw(PrefixState& state, const Batch& batch, const Draw& draw) const {
  const at::Tensor actions = action_target(config(), batch).unsqueeze(1);
  const at::Tensor noise = with_draw_axis(draw.noise, 4);
  const at::Tensor time = with_draw_axis(draw.time, 2);
  require_shape("noise", noise, {actions.size(0), noise.size(1), actions.size(2), actions.size(3)});
  require_shape("time", time, {actions.size(0), noise.size(1)});
  const at::Tensor share = time.unsqueeze(-1).unsqueeze(-1);
  state.set(keys::kNoisyActions, (share * noise + (1.0 - share) * actions).flatten(1, 2));
  state.set(keys::kTime, time);
}

at::Tensor SmolVLAPolicy::loss(const PrefixState& state, const Batch& batch, const Draw& draw,
                               Reduction reduction) const {
  const at::Tensor target = with_draw_axis(draw.noise, 4) - action_target(config(), batch).unsqueeze(1);
  const at::Tensor velocity = state.at(keys::kVelocity).view(target.sizes());
  // Only the real width of the action counts; the padded columns feed the network but not the loss.
  const std::int64_t width = config().action_dim();
  const at::Tensor errors = at::mse_loss(velocity.narrow(3, 0, width), target.narrow(3, 0, width), at::Reduction::None);
  return reduce(errors, action_padding(batch, errors), reduction);
}

at::Tensor SmolVLAPolicy::sample(const Batch& batch, const at::Tensor& noise) const {
  PrefixState state = begin(batch);
  run_frozen_stages(line_, 0, first_draw_stage_, state);
  return sample_from(std::move(state), noise);
}

at::Tensor SmolVLAPolicy::sample_from(PrefixState state, const at::Tensor& noise) const {
  const at::NoGradGuard no_grad;
  const std::int64_t size = state.at(keys::kPrefixMask).size(0);
  require_shape("noise", noise, {size, config().chunk_size, config().max_action_dim});

  const nn::PackedWeights packed;  // the steps go through the same expert
  const double step = -1.0 / static_cast<double>(config().num_steps);
  at::Tensor actions = noise;
  for (std::int64_t s = 0; s < config().num_steps; ++s) {
    const double time = 1.0 + static_cast<double>(s) * step;
    state.set(keys::kNoisyActions, actions);
    state.set(keys::kTime, at::full({size, 1}, time, noise.options()));
    run_stages(line_, first_draw_stage_, line_.size(), state);
    actions = actions + state.at(keys::kVelocity) * step;
  }
  const at::Tensor chunk = actions.narrow(2, 0, config().action_dim());
  return config().adapt_to_pi_aloha ? pi_actions_to_aloha(chunk) : chunk.contiguous();
}

Json SmolVLAPolicy::config_json() const { return smolvla_config_json(config()); }

std::map<std::string, at::Tensor> SmolVLAPolicy::read_again(std::span<const std::string> names) const {
  std::vector<ParameterInfo> wanted;
  for (const std::string& name : names) wanted.push_back(layout_.parameter(name));
  return models::read_again(source_, layout_.parameters, std::move(wanted));
}

void SmolVLAPolicy::save_pretrained(const std::filesystem::path& folder) const {
  write_text_atomic(folder / "config.json", config_json().dump(4));
  if (const Json vlm = smolvla_vlm_config_json(config()); !vlm.is_null()) {
    write_text_atomic(folder / "vlm_config.json", vlm.dump(2));
  }
  models::write_weights(folder, *module_);
  preprocessor_.save(folder);
  postprocessor_.save(folder);
}

}  // namespace thaw::smolvla
