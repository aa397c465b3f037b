#include "../siglip_impl.h"
#include "../table_impl.h"
#include "parameters_impl.h"

namespace thaw::smolvla {
namespace {

using models::Part;
using models::Table;

/// Widths of one Llama block; the key and value inputs of a cross layer are the language model's.
struct BlockShape {
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t query_width = 0;
  std::int64_t kv_width = 0;
  std::int64_t kv_input = 0;
};

void add_decoder_block(Table& table, const Part& part, const Part& kv_part, const std::string& prefix,
                       const BlockShape& shape) {
  const std::string attention = prefix + ".self_attn.";
  table.add(part, attention + "q_proj.weight", {shape.query_width, shape.hidden});
  table.add(kv_part, attention + "k_proj.weight", {shape.kv_width, shape.kv_input});
  table.add(kv_part, attention + "v_proj.weight", {shape.kv_width, shape.kv_input});
  table.add(part, attention + "o_proj.weight", {shape.hidden, shape.query_width});
  table.add(part, prefix + ".mlp.gate_proj.weight", {shape.intermediate, shape.hidden});
  table.add(part, prefix + ".mlp.up_proj.weight", {shape.intermediate, shape.hidden});
  table.add(part, prefix + ".mlp.down_proj.weight", {shape.hidden, shape.intermediate});
  table.add(part, prefix + ".input_layernorm.weight", {shape.hidden});
  table.add(part, prefix + ".post_attention_layernorm.weight", {shape.hidden});
}

/// LeRobot freezes the last language block, and the one before it when the expert has fewer layers.
bool language_block_trains(const SmolVLAConfig& config, std::int64_t block) {
  const std::int64_t last = config.language_layers() - 1;
  const bool fewer_experts = config.expert_layers() != config.language_layers();
  return !config.train_expert_only && block != last && !(fewer_experts && block == last - 1);
}

void add_language(Table& table, const SmolVLAConfig& config, at::ScalarType dtype) {
  const SmolTextConfig& text = config.vlm.text;
  const bool trains = !config.train_expert_only;
  table.add({.dtype = dtype, .trainable = trains}, kText + ".embed_tokens.weight", {text.vocabulary, text.hidden_size});
  const BlockShape shape{.hidden = text.hidden_size,
                         .intermediate = text.intermediate_size,
                         .query_width = text.heads * text.head_dim,
                         .kv_width = text.kv_heads * text.head_dim,
                         .kv_input = text.hidden_size};
  for (std::int64_t i = 0; i < config.language_layers(); ++i) {
    const Part part{.dtype = dtype, .trainable = language_block_trains(config, i), .stack = "language", .block = i};
    add_decoder_block(table, part, part, kTextLayers + "." + std::to_string(i), shape);
  }
  table.add({.dtype = dtype, .trainable = false}, kText + ".norm.weight", {text.hidden_size});
}

void add_expert(Table& table, const SmolVLAConfig& config, at::ScalarType dtype) {
  const SmolTextConfig& text = config.vlm.text;
  BlockShape shape{.hidden = config.expert_hidden(),
                   .intermediate = config.expert_intermediate(),
                   .query_width = text.heads * text.head_dim,
                   .kv_width = text.kv_heads * text.head_dim};
  for (std::int64_t e = 0; e < config.expert_layers(); ++e) {
    const bool cross = config.cross_projection(e);
    const Part part{.dtype = dtype, .stack = "expert", .block = e};
    Part kv_part = part;
    if (cross) kv_part.dtype = at::kFloat;  // LeRobot replaces these layers by fresh float32 ones
    shape.kv_input = cross ? shape.kv_width : shape.hidden;
    add_decoder_block(table, part, kv_part, kExpertLayers + "." + std::to_string(e), shape);
  }
  table.add({.dtype = dtype}, kExpert + ".norm.weight", {shape.hidden});
}

void add_projections(Table& table, const SmolVLAConfig& config) {
  const std::int64_t width = config.expert_hidden();
  table.add_biased({.trainable = config.train_state_proj}, kStateProjection,
                   {config.vlm.text.hidden_size, config.max_state_dim});
  table.add_biased({}, kActionIn, {width, config.max_action_dim});
  table.add_biased({}, kActionOut, {config.max_action_dim, width});
  table.add_biased({}, kTimeIn, {width, 2 * width});
  table.add_biased({}, kTimeOut, {width, width});
}

}  // namespace

std::vector<ParameterInfo> parameter_table(const SmolVLAConfig& config, InitialDtypes dtypes) {
  const bool published = dtypes == InitialDtypes::published;
  const at::ScalarType narrow = published ? at::kBFloat16 : at::kFloat;
  const at::ScalarType loaded = published && config.load_vlm_weights ? at::kBFloat16 : at::kFloat;
  const bool vlm_trains = !config.train_expert_only;
  const std::int64_t connector_input =
      config.vlm.vision.hidden_size * config.vlm.scale_factor * config.vlm.scale_factor;

  Table table;
  models::add_siglip(table, config.vlm.vision, kVision,
                     {.dtype = loaded, .trainable = vlm_trains && !config.freeze_vision_encoder},
                     models::SiglipOrder::attention_first);
  table.add({.dtype = loaded, .trainable = vlm_trains}, kConnector + ".weight",
            {config.vlm.text.hidden_size, connector_input});
  add_language(table, config, narrow);
  table.add({.dtype = loaded, .trainable = false}, kHead + ".weight",
            {config.vlm.text.vocabulary, config.vlm.text.hidden_size});
  add_expert(table, config, narrow);
  add_projections(table, config);
  return table.take();
}

}  // namespace thaw::smolvla
