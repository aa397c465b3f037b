#include <ATen/ATen.h>

#include <utility>

#include "../line_parts_impl.h"
#include "costs_impl.h"
#include "line_impl.h"
#include "parameters_impl.h"
#include "thaw/models/pi0/layout.h"
#include "thaw/models/pi0/sequence.h"

namespace thaw::pi0 {
namespace {

using models::joined;
using models::kv_keys;
using models::Names;
using models::numbered;
using models::read_kv;
using models::weight_and_bias;
using models::write_kv;

/// Sets what a stage costs.
StageInfo priced(StageInfo info, Cost cost) {
  info.flops = cost.flops;
  info.pair_flops = cost.pair_flops;
  info.bytes = std::move(cost.bytes);
  return info;
}

class LineBuilder {
 public:
  LineBuilder(const Pi0Config& config, std::shared_ptr<const Network> network)
      : config_(config), network_(std::move(network)), costs_(config) {}

  std::vector<Stage> build() {
    add_vision();
    add_prefix();
    for (std::int64_t i = 0; i < config_.blocks(); ++i) add_language_block(i);
    if (!config_.is_pi05()) {
      add_state();
      for (std::int64_t i = 0; i < config_.blocks(); ++i) add_state_block(i);
    }
    add_suffix_sequence();
    add_suffix_embedding();
    for (std::int64_t i = 0; i < config_.blocks(); ++i) add_expert_block(i);
    add_output();
    mark_cuts();
    return std::move(line_);
  }

 private:
  [[nodiscard]] bool is_last(std::int64_t block) const { return block + 1 == config_.blocks(); }

  /// Where a prefix may be cached. Between two cuts of a name the later one spares more.
  void mark_cuts() {
    const std::int64_t last = config_.blocks() - 1;
    for (Stage& stage : line_) {
      const std::string& name = stage.info.name;
      if (name == "vision.post" || name == "projector") stage.info.cut = "vision";
      if (name == "prefix.embed" || name.starts_with("language.")) stage.info.cut = "hidden";
      if (name == numbered("language", last) || name == numbered("state", last)) stage.info.cut = "kv";
    }
  }

  void add(StageInfo info, std::function<void(PrefixState&)> run) {
    line_.push_back({.info = std::move(info), .run = std::move(run)});
  }

  void add_vision() {
    const auto net = network_;
    const models::SiglipPlace place{.config = config_.sizes.vision,
                                    .prefix = kVision,
                                    .pixels_key = keys::kPixels,
                                    .hidden_key = keys::kVisionHidden,
                                    .images = costs_.images(),
                                    .patches = models::real(config_.patches())};
    add(models::siglip_embedding_stage(place),
        [net](PrefixState& s) { s.set(keys::kVisionHidden, net->embed_patches(s.at(keys::kPixels))); });
    for (std::int64_t i = 0; i < config_.sizes.vision.layers; ++i) {
      add(models::siglip_block_stage(place, i),
          [net, i](PrefixState& s) { s.set(keys::kVisionHidden, net->vision_block(i, s.at(keys::kVisionHidden))); });
    }
    add(models::siglip_norm_stage(place),
        [net](PrefixState& s) { s.set(keys::kVisionHidden, net->vision_norm(s.at(keys::kVisionHidden))); });
    add(priced({.name = "projector",
                .reads = {keys::kVisionHidden},
                .writes = {keys::kImageTokens},
                .parameters = weight_and_bias(kProjector)},
               costs_.projector()),
        [net](PrefixState& s) { s.set(keys::kImageTokens, net->project(s.at(keys::kVisionHidden))); });
  }

  void add_prefix() {
    const auto net = network_;
    const std::int64_t image_tokens = config_.patches();
    add(priced({.name = "prefix.embed",
                .reads = {keys::kImageTokens, keys::kCameraMask, keys::kTokens, keys::kTokenMask},
                .writes = {keys::kRows, keys::kRowMask, keys::kRowRotary},
                .parameters = {token_embedding(config_)}},
               costs_.prefix_embedding()),
        [net, image_tokens](PrefixState& s) {
          s.set(keys::kRows, net->embed_prefix(s.at(keys::kImageTokens), s.at(keys::kTokens)));
          s.set(keys::kRowMask, models::row_mask(s.at(keys::kCameraMask), s.at(keys::kTokenMask), image_tokens));
          s.set(keys::kRowRotary, net->rotary(models::row_positions(s.at(keys::kRowMask))));
        });
  }

  void add_language_block(std::int64_t i) {
    const auto net = network_;
    const std::string block = numbered(kLanguageLayers, i);
    const bool last = is_last(i);
    StageInfo info{.name = numbered("language", i),
                   .reads = {keys::kRows, keys::kRowRotary},
                   .writes = kv_keys(keys::kPrefix, i),
                   .parameters = joined({{block + ".input_layernorm.weight"}, models::key_value_parameters(block)})};
    if (last) {
      info.parameters.push_back(block + ".self_attn.q_proj.weight");
    } else {
      info.reads.push_back(keys::kRowMask);
      info.writes.push_back(keys::kRows);
      info.parameters = joined(
          {info.parameters, models::query_and_mlp_parameters(block), {block + ".post_attention_layernorm.weight"}});
    }
    info.block = {.stack = "language", .block = i, .stream = keys::kRows};
    add(priced(std::move(info), costs_.language_block(block, last)), [net, i, last](PrefixState& s) {
      // Masked keys are enough: what a masked row computes is read by nobody.
      const at::Tensor mask = last ? at::Tensor() : s.at(keys::kRowMask).unsqueeze(1);
      BlockOutput out = net->language_block(i, s.at(keys::kRows), s.at(keys::kRowRotary), mask);
      write_kv(s, keys::kPrefix, i, out.own);
      if (!last) s.set(keys::kRows, std::move(out.hidden));
    });
  }

  void add_state() {
    const auto net = network_;
    add(priced({.name = "state",
                .reads = {keys::kState, keys::kRowMask},
                .writes = {keys::kStateRow, keys::kStateRotary, keys::kStateMask},
                .parameters = weight_and_bias(kStateProjection)},
               costs_.state()),
        [net](PrefixState& s) {
          s.set(keys::kStateRow, net->embed_state(s.at(keys::kState)));
          s.set(keys::kStateRotary, net->rotary(models::state_position(s.at(keys::kRowMask))));
          s.set(keys::kStateMask, models::prefix_mask(s.at(keys::kRowMask)));
        });
  }

  [[nodiscard]] Names expert_parameters(const std::string& block, bool keys_alone) const {
    const Names first =
        joined({expert_norm_parameters(config_, block + ".input_layernorm"), models::key_value_parameters(block)});
    if (keys_alone) return first;
    return joined({first, models::query_and_mlp_parameters(block),
                   expert_norm_parameters(config_, block + ".post_attention_layernorm")});
  }

  void add_state_block(std::int64_t i) {
    const auto net = network_;
    const std::string block = numbered(kExpertLayers, i);
    const bool last = is_last(i);
    StageInfo info{.name = numbered("state", i),
                   .reads = {keys::kStateRow, keys::kStateRotary},
                   .writes = kv_keys(keys::kStateStream, i),
                   .parameters = expert_parameters(block, last)};
    if (!last) {
      info.reads = joined({info.reads, {keys::kStateMask}, kv_keys(keys::kPrefix, i)});
      info.writes.push_back(keys::kStateRow);
    }
    info.block = {.stack = "expert", .block = i, .stream = keys::kStateRow};
    add(priced(std::move(info), costs_.state_block(block, last)), [net, i, last](PrefixState& s) {
      const nn::KeyValue prefix = last ? nn::KeyValue{} : read_kv(s, keys::kPrefix, i);
      const at::Tensor mask = last ? at::Tensor() : s.at(keys::kStateMask);
      BlockOutput out = net->state_block(i, s.at(keys::kStateRow), s.at(keys::kStateRotary), prefix, mask);
      write_kv(s, keys::kStateStream, i, out.own);
      if (!last) s.set(keys::kStateRow, std::move(out.hidden));
    });
  }

  /// Positions and masks of the suffix: once per prefix, whatever the number of draws or denoising steps.
  void add_suffix_sequence() {
    const auto net = network_;
    const std::int64_t chunk = config_.chunk_size;
    const std::int64_t state_rows = config_.state_rows();
    add({.name = "suffix.sequence", .reads = {keys::kRowMask}, .writes = {keys::kSuffixMask, keys::kSuffixRotary}},
        [net, chunk, state_rows](PrefixState& s) {
          const at::Tensor& rows = s.at(keys::kRowMask);
          s.set(keys::kSuffixMask, suffix_mask(rows, state_rows, chunk));
          s.set(keys::kSuffixRotary, net->rotary(suffix_positions(rows, state_rows, chunk)));
        });
  }

  void add_suffix_embedding() {
    const auto net = network_;
    const bool conditioned = config_.is_pi05();
    StageInfo info{.name = "suffix.embed",
                   .reads = {keys::kNoisyActions, keys::kTime, keys::kSuffixMask, keys::kSuffixRotary},
                   .writes = {keys::kSuffixHidden, keys::kDrawMask, keys::kDrawRotary},
                   .parameters = joined({weight_and_bias(kActionIn), weight_and_bias(time_in(config_)),
                                         weight_and_bias(time_out(config_))})};
    if (conditioned) info.writes.push_back(keys::kCondition);
    add(priced(std::move(info), costs_.suffix_embedding()), [net, conditioned](PrefixState& s) {
      const at::Tensor& time = s.at(keys::kTime).dim() == 2 ? s.at(keys::kTime) : s.at(keys::kTime).unsqueeze(1);
      const std::int64_t draws = time.size(1);
      s.set(keys::kSuffixHidden, net->embed_suffix(s.at(keys::kNoisyActions), time));
      if (conditioned) s.set(keys::kCondition, net->condition(time));
      // Several draws share the prefix as further queries: its keys and values are not copied.
      const at::Tensor& rotary = s.at(keys::kSuffixRotary);
      s.set(keys::kDrawMask, models::fold_draws(s.at(keys::kSuffixMask), draws));
      s.set(keys::kDrawRotary, draws == 1 ? rotary : rotary.repeat({1, draws, 1}));
    });
  }

  void add_expert_block(std::int64_t i) {
    const auto net = network_;
    const std::string block = numbered(kExpertLayers, i);
    const bool has_state = !config_.is_pi05();
    StageInfo info{
        .name = numbered("suffix", i),
        .reads = joined({{keys::kSuffixHidden, keys::kDrawRotary, keys::kDrawMask}, kv_keys(keys::kPrefix, i)}),
        .writes = {keys::kSuffixHidden},
        .parameters = expert_parameters(block, false)};
    info.reads = joined({info.reads, has_state ? kv_keys(keys::kStateStream, i) : Names{keys::kCondition}});
    info.block = {.stack = "expert", .block = i, .stream = keys::kSuffixHidden};
    add(priced(std::move(info), costs_.expert_block(block)), [net, i, has_state](PrefixState& s) {
      std::vector<nn::KeyValue> before{read_kv(s, keys::kPrefix, i)};
      if (has_state) before.push_back(read_kv(s, keys::kStateStream, i));
      const at::Tensor condition = has_state ? at::Tensor() : s.at(keys::kCondition);
      s.set(keys::kSuffixHidden, net->expert_block(i, s.at(keys::kSuffixHidden), s.at(keys::kDrawRotary),
                                                   std::move(before), s.at(keys::kDrawMask), condition));
    });
  }

  void add_output() {
    const auto net = network_;
    const bool conditioned = config_.is_pi05();
    StageInfo info{
        .name = "suffix.out",
        .reads = {keys::kSuffixHidden},
        .writes = {keys::kVelocity},
        .parameters = joined({expert_norm_parameters(config_, kExpert + ".norm"), weight_and_bias(kActionOut)})};
    if (conditioned) info.reads.push_back(keys::kCondition);
    add(priced(std::move(info), costs_.output()), [net, conditioned](PrefixState& s) {
      const at::Tensor condition = conditioned ? s.at(keys::kCondition) : at::Tensor();
      s.set(keys::kVelocity, net->project_actions(net->expert_norm(s.at(keys::kSuffixHidden), condition)));
    });
  }

  const Pi0Config& config_;
  std::shared_ptr<const Network> network_;
  Costs costs_;
  std::vector<Stage> line_;
};

}  // namespace

std::vector<Stage> build_line(const Pi0Config& config, const std::shared_ptr<const Network>& network) {
  return LineBuilder(config, network).build();
}

}  // namespace thaw::pi0

namespace thaw {

ModelLayout pi0_layout(const Pi0Config& config, InitialDtypes dtypes) {
  config.validate();
  ModelLayout layout{
      .type = config.type(),
      .parameters = pi0::parameter_table(config, dtypes),
      .stacks = {{.name = "vision", .prefix = pi0::kVision + ".encoder.layers", .blocks = config.sizes.vision.layers},
                 {.name = "language", .prefix = pi0::kLanguageLayers, .blocks = config.blocks(), .joined = "depth"},
                 {.name = "expert", .prefix = pi0::kExpertLayers, .blocks = config.blocks(), .joined = "depth"}},
      .output_key = pi0::keys::kVelocity,
      .keys = pi0::key_table(config),
      .image_inputs = {pi0::keys::kPixels, pi0::keys::kCameraMask}};
  for (Stage& stage : pi0::build_line(config, nullptr)) layout.line.push_back(std::move(stage.info));
  return layout;
}

}  // namespace thaw
