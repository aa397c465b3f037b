#include <ATen/ATen.h>

#include <cmath>

#include "../line_parts_impl.h"
#include "network_impl.h"
#include "parameters_impl.h"
#include "thaw/models/sequence.h"

namespace thaw::pi0 {
namespace {

using models::numbered;

constexpr double kRotaryBase = 10000.0;
constexpr double kNormEps = 1e-6;
constexpr std::int64_t kPaddingToken = 0;  ///< its row is read as any other but never gets a gradient

at::ScalarType at_least_float(at::ScalarType dtype) { return c10::promoteTypes(dtype, at::kFloat); }

/// `value` as an element of `dtype` holds it.
double rounded(double value, at::ScalarType dtype) { return at::scalar_tensor(value, dtype).item<double>(); }

std::vector<nn::GemmaBlock> find_blocks(const nn::ParameterMap& parameters, const std::string& prefix,
                                        const GemmaConfig& gemma) {
  std::vector<nn::GemmaBlock> blocks;
  for (std::int64_t i = 0; i < gemma.depth; ++i) {
    blocks.push_back(nn::find_gemma_block(parameters, numbered(prefix, i), gemma.head_dim, kNormEps));
  }
  return blocks;
}

/// Rows enter a stack in the type of its weights.
at::Tensor entering(const at::Tensor& rows, const std::vector<nn::GemmaBlock>& stack) {
  return rows.to(stack.front().layers.query.weight.scalar_type());
}

at::Tensor attend(const at::Tensor& query, at::ArrayRef<nn::KeyValue> seen, const at::Tensor& mask) {
  at::ScalarType dtype = query.scalar_type();
  for (const nn::KeyValue& part : seen) dtype = c10::promoteTypes(dtype, part.key.scalar_type());
  return nn::attention(query.to(dtype), seen, mask);
}

}  // namespace

Network::Network(Pi0Config config, const nn::ParameterMap& parameters)
    : config_(std::move(config)),
      vision_(config_.sizes.vision, parameters, kVision),
      projector_(nn::find_linear(parameters, kProjector)),
      token_embedding_(nn::find_parameter(parameters, pi0::token_embedding(config_))),
      language_(find_blocks(parameters, kLanguageLayers, config_.sizes.language)),
      expert_(find_blocks(parameters, kExpertLayers, config_.sizes.expert)),
      expert_norm_(nn::find_gemma_norm(parameters, kExpert + ".norm", kNormEps)),
      action_in_(nn::find_linear(parameters, kActionIn)),
      action_out_(nn::find_linear(parameters, kActionOut)),
      time_in_(nn::find_linear(parameters, time_in(config_))),
      time_out_(nn::find_linear(parameters, time_out(config_))) {
  if (!config_.is_pi05()) state_projection_ = nn::find_linear(parameters, kStateProjection);
}

at::Tensor Network::embed_patches(const at::Tensor& pixels) const {
  return vision_.embed_patches(pixels, at::arange(config_.patches(), at::kLong));
}

at::Tensor Network::vision_block(std::int64_t block, const at::Tensor& hidden) const {
  return vision_.block(block, hidden);
}

at::Tensor Network::vision_norm(const at::Tensor& hidden) const { return vision_.norm(hidden); }

at::Tensor Network::project(const at::Tensor& hidden) const { return nn::linear(hidden, projector_); }

at::Tensor Network::embed_prefix(const at::Tensor& image_tokens, const at::Tensor& tokens) const {
  // The reference keeps the scale of the language in the type of the embedding (45.25 in bfloat16).
  const double scale =
      rounded(std::sqrt(static_cast<double>(config_.sizes.language.width)), token_embedding_.scalar_type());
  const at::Tensor language = at::embedding(token_embedding_, tokens, kPaddingToken) * scale;
  return entering(at::cat({image_tokens.flatten(1, 2), language}, 1), language_);
}

at::Tensor Network::rotary(const at::Tensor& positions) const {
  return nn::gemma_rotary_table(positions, config_.sizes.language.head_dim, kRotaryBase, config_.dtype == "bfloat16");
}

BlockOutput Network::language_block(std::int64_t block, const at::Tensor& rows, const at::Tensor& rotary,
                                    const at::Tensor& mask) const {
  const nn::GemmaBlock& layer = language_.at(block);
  const at::Tensor normed = nn::gemma_norm(rows, layer.input_norm).rows;
  BlockOutput output{.own = nn::block_key_value(layer.layers, normed, rotary)};
  if (is_last(block)) {
    // Nobody reads what the last block's query gives, but in the reference it is computed and decays in training.
    output.own.key = nn::with_zero_gradient(output.own.key, layer.layers.query.weight);
    return output;
  }
  const at::Tensor query = nn::block_query(layer.layers, normed, rotary);
  output.hidden = nn::gemma_finish(layer, rows, attend(query, {output.own}, mask));
  return output;
}

at::Tensor Network::embed_state(const at::Tensor& state) const {
  return entering(nn::linear(state, state_projection_).unsqueeze(1), expert_);
}

BlockOutput Network::state_block(std::int64_t block, const at::Tensor& row, const at::Tensor& rotary,
                                 const nn::KeyValue& prefix, const at::Tensor& mask) const {
  const nn::GemmaBlock& layer = expert_.at(block);
  const at::Tensor normed = nn::gemma_norm(row, layer.input_norm).rows;
  BlockOutput output{.own = nn::block_key_value(layer.layers, normed, rotary)};
  if (is_last(block)) return output;
  const at::Tensor query = nn::block_query(layer.layers, normed, rotary);
  output.hidden = nn::gemma_finish(layer, row, attend(query, {prefix, output.own}, mask));
  return output;
}

at::Tensor Network::embed_time(const at::Tensor& time) const {
  const std::int64_t width = config_.sizes.expert.width;
  const at::Tensor embedded = models::time_embedding(time.flatten(), width, config_.min_period, config_.max_period);
  return embedded.to(at_least_float(time_in_.weight.scalar_type())).view({time.size(0), -1, width});
}

at::Tensor Network::embed_suffix(const at::Tensor& noisy_actions, const at::Tensor& time) const {
  const at::Tensor actions = nn::linear(noisy_actions, action_in_);
  if (config_.is_pi05()) return entering(actions, expert_);
  const at::Tensor embedded = embed_time(time).unsqueeze(2);  // (B, K, 1, He)
  const at::Tensor per_step = embedded.expand({-1, -1, config_.chunk_size, -1}).reshape(actions.sizes());
  const at::Tensor joined = at::cat({actions, per_step.to(actions.scalar_type())}, 2);
  return entering(nn::linear(at::silu(nn::linear(joined, time_in_)), time_out_), expert_);
}

at::Tensor Network::condition(const at::Tensor& time) const {
  return at::silu(nn::linear(at::silu(nn::linear(embed_time(time), time_in_)), time_out_));
}

at::Tensor Network::expert_block(std::int64_t block, const at::Tensor& hidden, const at::Tensor& rotary,
                                 std::vector<nn::KeyValue> before, const at::Tensor& mask,
                                 const at::Tensor& condition) const {
  const nn::GemmaBlock& layer = expert_.at(block);
  const nn::GemmaNormed normed = nn::gemma_norm(hidden, layer.input_norm, condition);
  const at::Tensor query = nn::block_query(layer.layers, normed.rows, rotary);
  before.push_back(nn::block_key_value(layer.layers, normed.rows, rotary));
  const at::Tensor attended = attend(query, before, mask);
  return nn::gemma_finish(layer, hidden, attended, normed.gate, condition);
}

at::Tensor Network::expert_norm(const at::Tensor& hidden, const at::Tensor& condition) const {
  const at::Tensor normed = nn::gemma_norm(hidden, expert_norm_, condition).rows;
  return normed.to(at_least_float(normed.scalar_type()));
}

at::Tensor Network::project_actions(const at::Tensor& normed) const {
  const at::Tensor velocity = nn::linear(normed, action_out_);
  return velocity.to(at_least_float(velocity.scalar_type()));
}

}  // namespace thaw::pi0
