#include <ATen/ATen.h>

#include "../line_parts_impl.h"
#include "../siglip_impl.h"
#include "costs_impl.h"
#include "line_impl.h"
#include "parameters_impl.h"
#include "pruned_impl.h"
#include "thaw/models/smolvla/layout.h"
#include "thaw/models/smolvla/sequence.h"

namespace thaw::smolvla {
namespace {

using models::joined;
using models::key_value_parameters;
using models::kv_keys;
using models::Names;
using models::numbered;
using models::read_kv;
using models::weight_and_bias;
using models::write_kv;

Names query_parameters(const std::string& block) {
  return joined({models::query_and_mlp_parameters(block), {block + ".post_attention_layernorm.weight"}});
}

class LineBuilder {
 public:
  LineBuilder(const SmolVLAConfig& config, std::shared_ptr<const Network> network)
      : config_(config), network_(std::move(network)), size_(config), flops_(config), bytes_(config) {}

  std::vector<Stage> build() {
    add_vision();
    add_prefix();
    const std::int64_t last = config_.last_language_layer();
    for (std::int64_t i = 0; i <= last; ++i) add_rows_block(i);
    add_state();
    for (std::int64_t i = 0; i <= last; ++i) add_state_block(i);
    add_suffix_sequence();
    for (std::int64_t e = 0; e < config_.expert_layers(); ++e) {
      if (config_.cross_projection(e)) add_cross_keys(e);
    }
    add_suffix_embedding();
    for (std::int64_t e = 0; e < config_.expert_layers(); ++e) {
      config_.cross_projection(e) ? add_cross_block(e) : add_self_block(e);
    }
    add_output();
    mark_cuts();
    return std::move(line_);
  }

 private:
  /// Where a prefix may be cached. Between two cuts of a name the later one spares more.
  void mark_cuts() {
    const std::string last = std::to_string(config_.last_language_layer());
    for (Stage& stage : line_) {
      const std::string& name = stage.info.name;
      if (name == "vision.post" || name == "connector") stage.info.cut = "vision";
      if (name == "prefix.embed" || name.starts_with("A.language.")) stage.info.cut = "hidden";
      if (name == "A.language." + last || name == "B.language." + last) stage.info.cut = "kv";
    }
  }

  void add(StageInfo info, std::function<void(PrefixState&)> run) {
    line_.push_back({.info = std::move(info), .run = std::move(run)});
  }

  void add_vision() {
    const auto net = network_;
    const models::SiglipPlace place{.config = config_.vlm.vision,
                                    .prefix = kVision,
                                    .pixels_key = keys::kPixels,
                                    .hidden_key = keys::kVisionHidden,
                                    .images = size_.images,
                                    .patches = size_.patches};
    add(models::siglip_embedding_stage(place),
        [net](PrefixState& s) { s.set(keys::kVisionHidden, net->embed_patches(s.at(keys::kPixels))); });
    for (std::int64_t i = 0; i < config_.vlm.vision.layers; ++i) {
      add(models::siglip_block_stage(place, i),
          [net, i](PrefixState& s) { s.set(keys::kVisionHidden, net->vision_block(i, s.at(keys::kVisionHidden))); });
    }
    add(models::siglip_norm_stage(place),
        [net](PrefixState& s) { s.set(keys::kVisionHidden, net->vision_norm(s.at(keys::kVisionHidden))); });
    add({.name = "connector",
         .reads = {keys::kVisionHidden},
         .writes = {keys::kImageTokens},
         .parameters = {kConnector + ".weight"},
         .flops = flops_.connector(),
         .bytes = bytes_.connector(kConnector)},
        [net](PrefixState& s) { s.set(keys::kImageTokens, net->connect(s.at(keys::kVisionHidden))); });
  }

  void add_prefix() {
    const auto net = network_;
    const std::int64_t image_tokens = config_.image_tokens();
    const bool special = config_.add_image_special_tokens;
    add({.name = "prefix.embed",
         .reads = {keys::kImageTokens, keys::kCameraMask, keys::kTokens, keys::kTokenMask},
         .writes = {keys::kRows, keys::kRowMask, keys::kRowRotary},
         .parameters = {kText + ".embed_tokens.weight"},
         .bytes = bytes_.prefix_embedding()},
        [net, image_tokens, special](PrefixState& s) {
          s.set(keys::kRows, net->embed_prefix(s.at(keys::kImageTokens), s.at(keys::kTokens)));
          s.set(keys::kRowMask, row_mask(s.at(keys::kCameraMask), s.at(keys::kTokenMask), image_tokens, special));
          s.set(keys::kRowRotary, net->rotary(row_positions(s.at(keys::kRowMask))));
        });
  }

  [[nodiscard]] Names language_parameters(std::int64_t i) const {
    const std::string prefix = numbered(kTextLayers, i);
    Names names = joined({{prefix + ".input_layernorm.weight"}, key_value_parameters(prefix)});
    return i == config_.last_language_layer() ? names : joined({names, query_parameters(prefix)});
  }

  void add_rows_block(std::int64_t i) {
    const auto net = network_;
    const bool last = i == config_.last_language_layer();
    Names reads{keys::kRows, keys::kRowRotary};
    Names writes = kv_keys("A", i);
    if (!last) {
      reads.push_back(keys::kRowMask);
      writes.push_back(keys::kRows);
    }
    add({.name = numbered("A.language", i),
         .reads = reads,
         .writes = writes,
         .parameters = language_parameters(i),
         .flops = flops_.rows_block(last),
         .bytes = bytes_.rows_block(numbered(kTextLayers, i), last),
         .block = {.stack = "language", .block = i, .stream = keys::kRows}},
        [net, i, last](PrefixState& s) {
          // Masked keys are enough: what a masked row computes is read by nobody.
          const at::Tensor mask = last ? at::Tensor() : s.at(keys::kRowMask).unsqueeze(1);
          LanguageOutput out = net->language_block(i, s.at(keys::kRows), s.at(keys::kRowRotary), std::nullopt, mask);
          write_kv(s, "A", i, out.own);
          if (!last) s.set(keys::kRows, std::move(out.hidden));
        });
  }

  void add_state() {
    const auto net = network_;
    add({.name = "state",
         .reads = {keys::kState, keys::kRowMask},
         .writes = {keys::kStateRow, keys::kStateRotary, keys::kPrefixMask},
         .parameters = weight_and_bias(kStateProjection),
         .flops = flops_.state()},
        [net](PrefixState& s) {
          s.set(keys::kStateRow, net->embed_state(s.at(keys::kState)));
          s.set(keys::kStateRotary, net->rotary(state_position(s.at(keys::kRowMask))));
          s.set(keys::kPrefixMask, prefix_mask(s.at(keys::kRowMask)));
        });
  }

  void add_state_block(std::int64_t i) {
    const auto net = network_;
    const bool last = i == config_.last_language_layer();
    Names reads{keys::kStateRow, keys::kStateRotary};
    Names writes = kv_keys("B", i);
    if (!last) {
      reads = joined({reads, {keys::kPrefixMask}, kv_keys("A", i)});
      writes.push_back(keys::kStateRow);
    }
    add({.name = numbered("B.language", i),
         .reads = reads,
         .writes = writes,
         .parameters = language_parameters(i),
         .flops = flops_.state_block(last),
         .bytes = bytes_.state_block(numbered(kTextLayers, i), last),
         .block = {.stack = "language", .block = i, .stream = keys::kStateRow}},
        [net, i, last](PrefixState& s) {
          const auto before = last ? std::nullopt : std::optional(read_kv(s, "A", i));
          const at::Tensor mask = last ? at::Tensor() : s.at(keys::kPrefixMask);
          LanguageOutput out = net->language_block(i, s.at(keys::kStateRow), s.at(keys::kStateRotary), before, mask);
          write_kv(s, "B", i, out.own);
          if (!last) s.set(keys::kStateRow, std::move(out.hidden));
        });
  }

  /// Positions and masks of the suffix: once per prefix, whatever the number of draws or denoising steps.
  void add_suffix_sequence() {
    const auto net = network_;
    const std::int64_t chunk = config_.chunk_size;
    add({.name = "suffix.sequence",
         .reads = {keys::kRowMask},
         .writes = {keys::kSuffixMask, keys::kSuffixRotary, keys::kCrossRotary}},
        [net, chunk](PrefixState& s) {
          const at::Tensor& rows = s.at(keys::kRowMask);
          const at::Tensor positions = suffix_positions(rows, chunk);
          s.set(keys::kSuffixMask, suffix_mask(rows, chunk));
          s.set(keys::kSuffixRotary, net->rotary(positions));
          // Queries of cross layers start from 0 again; the keys they meet keep their absolute positions.
          s.set(keys::kCrossRotary, net->rotary(positions - positions.narrow(1, 0, 1)));
        });
  }

  void add_cross_keys(std::int64_t e) {
    const auto net = network_;
    const std::int64_t i = e * config_.expert_stride();
    add({.name = numbered("cross", e),
         .reads = joined({kv_keys("A", i), kv_keys("B", i)}),
         .writes = kv_keys("cross", e),
         .parameters = key_value_parameters(numbered(kExpertLayers, e)),
         .flops = flops_.cross_keys(),
         .bytes = bytes_.cross_keys(numbered(kExpertLayers, e))},
        [net, e, i](PrefixState& s) {
          const nn::KeyValue prefix = nn::concatenate({read_kv(s, "A", i), read_kv(s, "B", i)});
          write_kv(s, "cross", e, net->cross_key_value(e, prefix));
        });
  }

  void add_suffix_embedding() {
    const auto net = network_;
    add({.name = "suffix.embed",
         .reads = {keys::kNoisyActions, keys::kTime, keys::kSuffixMask, keys::kSuffixRotary, keys::kCrossRotary},
         .writes = {keys::kSuffixHidden, keys::kDrawMask, keys::kDrawRotary, keys::kDrawCrossRotary},
         .parameters = joined({weight_and_bias(kActionIn), weight_and_bias(kTimeIn), weight_and_bias(kTimeOut)}),
         .flops = flops_.suffix_embedding(),
         .bytes = bytes_.suffix_embedding(kTimeIn, kTimeOut)},
        [net](PrefixState& s) {
          const at::Tensor& time = s.at(keys::kTime);
          s.set(keys::kSuffixHidden, net->embed_suffix(s.at(keys::kNoisyActions), time));
          // Several draws share the prefix as further queries: its keys and values are not copied.
          const std::int64_t draws = time.dim() == 2 ? time.size(1) : 1;
          const auto repeated = [draws](const at::Tensor& table) {
            return draws == 1 ? table : table.repeat({1, draws, 1});
          };
          s.set(keys::kDrawMask, fold_draws(s.at(keys::kSuffixMask), draws));
          s.set(keys::kDrawRotary, repeated(s.at(keys::kSuffixRotary)));
          s.set(keys::kDrawCrossRotary, repeated(s.at(keys::kCrossRotary)));
        });
  }

  void add_self_block(std::int64_t e) {
    const auto net = network_;
    const std::int64_t i = e * config_.expert_stride();
    const std::string prefix = numbered(kExpertLayers, e);
    add({.name = numbered("suffix", e),
         .reads = joined({{keys::kSuffixHidden, keys::kDrawRotary, keys::kDrawMask}, kv_keys("A", i), kv_keys("B", i)}),
         .writes = {keys::kSuffixHidden},
         .parameters =
             joined({{prefix + ".input_layernorm.weight"}, key_value_parameters(prefix), query_parameters(prefix)}),
         .flops = flops_.expert_block(true),
         .pair_flops = flops_.draw_pair(),
         .bytes = bytes_.expert_block(prefix, true),
         .block = {.stack = "expert", .block = e, .stream = keys::kSuffixHidden}},
        [net, e, i](PrefixState& s) {
          s.set(keys::kSuffixHidden, net->self_block(e, s.at(keys::kSuffixHidden), s.at(keys::kDrawRotary),
                                                     read_kv(s, "A", i), read_kv(s, "B", i), s.at(keys::kDrawMask)));
        });
  }

  void add_cross_block(std::int64_t e) {
    const auto net = network_;
    const std::string prefix = numbered(kExpertLayers, e);
    add({.name = numbered("suffix", e),
         .reads = joined({{keys::kSuffixHidden, keys::kDrawCrossRotary, keys::kPrefixMask}, kv_keys("cross", e)}),
         .writes = {keys::kSuffixHidden},
         .parameters = joined({{prefix + ".input_layernorm.weight"}, query_parameters(prefix)}),
         .flops = flops_.expert_block(false),
         .bytes = bytes_.expert_block(prefix, false),
         .block = {.stack = "expert", .block = e, .stream = keys::kSuffixHidden}},
        [net, e](PrefixState& s) {
          s.set(keys::kSuffixHidden, net->cross_block(e, s.at(keys::kSuffixHidden), s.at(keys::kDrawCrossRotary),
                                                      read_kv(s, "cross", e), s.at(keys::kPrefixMask)));
        });
  }

  void add_output() {
    const auto net = network_;
    add({.name = "suffix.out",
         .reads = {keys::kSuffixHidden},
         .writes = {keys::kVelocity},
         .parameters = joined({{kExpert + ".norm.weight"}, weight_and_bias(kActionOut)}),
         .flops = flops_.action_projection(),
         .bytes = bytes_.output(kActionOut)},
        [net](PrefixState& s) {
          s.set(keys::kVelocity, net->project_actions(net->expert_norm(s.at(keys::kSuffixHidden))));
        });
  }

  const SmolVLAConfig& config_;
  std::shared_ptr<const Network> network_;
  SampleSizes size_;
  Flops flops_;
  Bytes bytes_;
  std::vector<Stage> line_;
};

}  // namespace

std::vector<Stage> build_line(const SmolVLAConfig& config, const std::shared_ptr<const Network>& network) {
  return LineBuilder(config, network).build();
}

}  // namespace thaw::smolvla

namespace thaw {

ModelLayout smolvla_layout(const SmolVLAConfig& config, InitialDtypes dtypes) {
  config.validate();
  ModelLayout layout{
      .type = "smolvla",
      .parameters = smolvla::parameter_table(config, dtypes),
      .stacks = {{.name = "vision", .prefix = smolvla::kVisionLayers, .blocks = config.vlm.vision.layers},
                 {.name = "language",
                  .prefix = smolvla::kTextLayers,
                  .blocks = config.language_layers(),
                  .joined = smolvla::kDepth,
                  .period = smolvla::attention_period(config)},
                 {.name = "expert",
                  .prefix = smolvla::kExpertLayers,
                  .blocks = config.expert_layers(),
                  .joined = smolvla::kDepth,
                  .period = smolvla::attention_period(config)}},
      .output_key = smolvla::keys::kVelocity,
      .keys = smolvla::key_table(config),
      .image_inputs = {smolvla::keys::kPixels, smolvla::keys::kCameraMask}};
  for (Stage& stage : smolvla::build_line(config, nullptr)) layout.line.push_back(std::move(stage.info));
  return layout;
}

}  // namespace thaw
