#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "batch_inputs_impl.h"
#include "flow_policy_impl.h"
#include "line_parts_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/models/aloha.h"
#include "thaw/nn/linear.h"
#include "thaw/nn/packed_weights.h"
#include "thaw/policy/adapters.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/random.h"

namespace thaw::models {
namespace {

/// One number per element (B, K, T, D) -> the mean over draws and valid steps, of the whole batch or of each sample.
at::Tensor reduce(const at::Tensor& errors, const at::Tensor& is_pad, Reduction reduction) {
  if (!is_pad.defined()) return reduction == Reduction::mean ? errors.mean() : errors.mean({1, 2, 3});
  const at::Tensor valid = is_pad.logical_not();
  const at::Tensor kept = errors * valid.unsqueeze(1).unsqueeze(-1);
  const std::int64_t each = errors.size(1) * errors.size(3);
  if (reduction == Reduction::mean) return kept.sum() / (valid.sum() * each).clamp_min(1);
  return kept.sum({1, 2, 3}) / (valid.sum(1) * each).clamp_min(1);
}

/// A draw's tensor with its second axis, which may be left out when there is one draw.
at::Tensor with_draw_axis(const at::Tensor& tensor, std::int64_t rank) {
  return tensor.dim() == rank ? tensor : tensor.unsqueeze(1);
}

/// Beta(alpha, 1) by its inverse distribution function.
float flow_time(const FlowTime& time, double uniform) {
  return static_cast<float>(time.scale * std::pow(uniform, 1.0 / time.alpha) + time.offset);
}

}  // namespace

nn::ParameterMap network_parameters(const ModelLayout& layout, const torch::nn::Module& module) {
  nn::ParameterMap parameters = module.named_parameters();
  for (const Adapter& adapter : layout.adapters) {
    parameters.insert(nn::low_rank_scale_name(adapter.linear), at::scalar_tensor(adapter.scale(), at::kDouble));
  }
  return parameters;
}

FlowPolicy::FlowPolicy(FlowParts parts)
    : layout_(std::move(parts.layout)),
      module_(std::move(parts.module)),
      line_(std::move(parts.line)),
      first_draw_stage_(first_reader(line_, parts.keys.noisy_actions)),
      shape_(parts.shape),
      keys_(std::move(parts.keys)) {
  preprocessor_ = std::move(parts.preprocessor);
  postprocessor_ = std::move(parts.postprocessor);
  source_ = std::move(parts.source);
  for (std::size_t i = 0; i < line_.size(); ++i) line_[i].info = layout_.line.at(i);
  auto parameters = module_->named_parameters();
  for (const ParameterInfo& info : layout_.parameters) {
    parameters[info.name].set_requires_grad(info.trainable_by_default);
  }
}

std::vector<std::int64_t> FlowPolicy::action_delta_indices() const {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(shape_.chunk));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

Draw FlowPolicy::draw(const Batch& batch, std::uint64_t seed, DrawPurpose purpose, std::uint64_t step,
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
      noise.push_back(random_normal(noise_key, {shape_.chunk, shape_.padded_width}));
      time.push_back(flow_time(shape_.time, random_uniform(time_key, 1).item<double>()));
    }
  }
  if (noise.empty()) throw MismatchError(Problem{.where = "batch", .expected = "at least one sample"});
  const at::Device device = batch.has(kStateKey) ? batch.at(kStateKey).device() : at::Device(at::kCPU);
  const Draw flat{.noise = at::stack(noise).to(device), .time = at::tensor(time).to(device)};
  if (draws == 1) return flat;
  const auto size = static_cast<std::int64_t>(batch.indices.size());
  return {.noise = flat.noise.view({size, draws, shape_.chunk, shape_.padded_width}),
          .time = flat.time.view({size, draws})};
}

void FlowPolicy::add_draw(PrefixState& state, const Batch& batch, const Draw& draw) const {
  const at::Tensor actions = action_target(batch).unsqueeze(1);
  const at::Tensor noise = with_draw_axis(draw.noise, 4);
  const at::Tensor time = with_draw_axis(draw.time, 2);
  require_shape("noise", noise, {actions.size(0), noise.size(1), actions.size(2), actions.size(3)});
  require_shape("time", time, {actions.size(0), noise.size(1)});
  const at::Tensor share = time.unsqueeze(-1).unsqueeze(-1);
  state.set(keys_.noisy_actions, (share * noise + (1.0 - share) * actions).flatten(1, 2));
  state.set(keys_.time, time);
}

at::Tensor FlowPolicy::loss(const PrefixState& state, const Batch& batch, const Draw& draw, Reduction reduction) const {
  const at::Tensor target = with_draw_axis(draw.noise, 4) - action_target(batch).unsqueeze(1);
  const at::Tensor velocity = state.at(keys_.velocity).view(target.sizes());
  // Only the real width of the action counts; the padded columns feed the network but not the loss.
  const at::Tensor errors =
      at::mse_loss(velocity.narrow(3, 0, shape_.width), target.narrow(3, 0, shape_.width), at::Reduction::None);
  return reduce(errors, ignored_steps(batch), reduction);
}

at::Tensor FlowPolicy::sample(const Batch& batch, const at::Tensor& noise) const {
  PrefixState state = begin(batch);
  run_frozen_stages(line_, 0, first_draw_stage_, state);
  return sample_from(std::move(state), noise);
}

at::Tensor FlowPolicy::sample_from(PrefixState state, const at::Tensor& noise) const {
  const at::NoGradGuard no_grad;
  const std::int64_t size = state.at(keys_.batch_like).size(0);
  require_shape("noise", noise, {size, shape_.chunk, shape_.padded_width});

  const nn::PackedWeights packed;  // the steps go through the same expert
  const double step = -1.0 / static_cast<double>(shape_.steps);
  at::Tensor actions = noise;
  for (std::int64_t s = 0; s < shape_.steps; ++s) {
    const double time = 1.0 + static_cast<double>(s) * step;
    state.set(keys_.noisy_actions, actions);
    state.set(keys_.time, at::full({size, 1}, time, noise.options()));
    run_stages(line_, first_draw_stage_, line_.size(), state);
    actions = actions + state.at(keys_.velocity) * step;
  }
  const at::Tensor chunk = actions.narrow(2, 0, shape_.width);
  return shape_.actions_to_aloha ? pi_actions_to_aloha(chunk) : chunk.contiguous();
}

std::map<std::string, at::Tensor> FlowPolicy::read_again(std::span<const std::string> names) const {
  std::vector<ParameterInfo> wanted;
  for (const std::string& name : names) wanted.push_back(layout_.parameter(name));
  std::vector<ParameterInfo> table;
  std::copy_if(layout_.parameters.begin(), layout_.parameters.end(), std::back_inserter(table),
               [](const ParameterInfo& info) { return !is_adapter_parameter(info.name); });
  return models::read_again(source_, table, std::move(wanted), rename());
}

void FlowPolicy::save_pretrained(const std::filesystem::path& folder) const {
  write_text_atomic(folder / "config.json", config_json().dump(4));
  if (const Json backbone = backbone_json(); !backbone.is_null()) {
    write_text_atomic(folder / "vlm_config.json", backbone.dump(2));
  }
  write_weights(folder, layout_, *module_);
  preprocessor_.save(folder);
  postprocessor_.save(folder);
}

}  // namespace thaw::models
