#include "../line_parts_impl.h"
#include "../siglip_impl.h"
#include "../table_impl.h"
#include "parameters_impl.h"

namespace thaw::pi0 {
namespace {

using models::numbered;
using models::Part;
using models::Table;

/// Types of one stack: LeRobot keeps the norms in float32 when it makes a bfloat16 model.
struct StackParts {
  Part weights;
  Part norms;

  [[nodiscard]] StackParts in(const std::string& name, std::int64_t block) const {
    return {.weights = weights.in(name, block), .norms = norms.in(name, block)};
  }
};

void add_norm(Table& table, const Part& part, const std::string& name, std::int64_t width, bool adaptive) {
  if (adaptive) {
    table.add_biased(part, name + ".dense", {3 * width, width});
  } else {
    table.add(part, name + ".weight", {width});
  }
}

void add_gemma_block(Table& table, const StackParts& parts, const std::string& block, const GemmaConfig& gemma,
                     bool adaptive) {
  const std::string attention = block + ".self_attn.";
  const std::int64_t query_width = gemma.heads * gemma.head_dim;
  const std::int64_t kv_width = gemma.kv_heads * gemma.head_dim;
  table.add(parts.weights, attention + "q_proj.weight", {query_width, gemma.width});
  table.add(parts.weights, attention + "k_proj.weight", {kv_width, gemma.width});
  table.add(parts.weights, attention + "v_proj.weight", {kv_width, gemma.width});
  table.add(parts.weights, attention + "o_proj.weight", {gemma.width, query_width});
  table.add(parts.weights, block + ".mlp.gate_proj.weight", {gemma.mlp_dim, gemma.width});
  table.add(parts.weights, block + ".mlp.up_proj.weight", {gemma.mlp_dim, gemma.width});
  table.add(parts.weights, block + ".mlp.down_proj.weight", {gemma.width, gemma.mlp_dim});
  add_norm(table, parts.norms, block + ".input_layernorm", gemma.width, adaptive);
  add_norm(table, parts.norms, block + ".post_attention_layernorm", gemma.width, adaptive);
}

void add_paligemma(Table& table, const Pi0Config& config, at::ScalarType narrow) {
  const PaliGemmaSizes& sizes = config.sizes;
  const bool trains = !config.train_expert_only;
  const StackParts parts{.weights = {.dtype = narrow, .trainable = trains}, .norms = {.trainable = trains}};
  table.add(parts.weights, kHead, {sizes.vocabulary, sizes.language.width});
  if (config.tied_embedding) table.add_to_group("embeddings");
  models::add_siglip(table, sizes.vision, kVision, {.trainable = trains && !config.freeze_vision_encoder},
                     models::SiglipOrder::norm_first);
  table.add_biased({.trainable = trains}, kProjector, {sizes.language.width, sizes.vision.hidden_size});
  if (!config.tied_embedding) table.add(parts.weights, kEmbedding, {sizes.vocabulary, sizes.language.width});
  for (std::int64_t i = 0; i < config.blocks(); ++i) {
    add_gemma_block(table, parts.in("language", i), numbered(kLanguageLayers, i), sizes.language, false);
  }
  add_norm(table, parts.norms, kLanguage + ".norm", sizes.language.width, false);
}

void add_expert(Table& table, const Pi0Config& config, at::ScalarType narrow) {
  const GemmaConfig& expert = config.sizes.expert;
  const StackParts parts{.weights = {.dtype = narrow}};
  table.add(parts.weights, kExpertHead, {config.sizes.vocabulary, expert.width});
  for (std::int64_t i = 0; i < config.blocks(); ++i) {
    add_gemma_block(table, parts.in("expert", i), numbered(kExpertLayers, i), expert, config.is_pi05());
  }
  add_norm(table, parts.norms, kExpert + ".norm", expert.width, config.is_pi05());
}

void add_projections(Table& table, const Pi0Config& config) {
  const std::int64_t width = config.sizes.expert.width;
  table.add_biased({}, kActionIn, {width, config.max_action_dim});
  table.add_biased({}, kActionOut, {config.max_action_dim, width});
  if (!config.is_pi05()) table.add_biased({}, kStateProjection, {width, config.max_state_dim});
  table.add_biased({}, time_in(config), {width, config.is_pi05() ? width : 2 * width});
  table.add_biased({}, time_out(config), {width, width});
}

}  // namespace

std::vector<std::string> expert_norm_parameters(const Pi0Config& config, const std::string& norm) {
  return config.is_pi05() ? models::weight_and_bias(norm + ".dense") : std::vector<std::string>{norm + ".weight"};
}

std::vector<ParameterInfo> parameter_table(const Pi0Config& config, InitialDtypes dtypes) {
  const at::ScalarType narrow = dtypes == InitialDtypes::published ? at::kBFloat16 : at::kFloat;
  Table table;
  add_paligemma(table, config, narrow);
  add_expert(table, config, narrow);
  add_projections(table, config);
  std::vector<ParameterInfo> parameters = table.take();
  // The last language block gives keys and values alone.
  const std::string unread = numbered(kLanguageLayers, config.blocks() - 1) + ".self_attn.q_proj.weight";
  for (ParameterInfo& info : parameters) info.unread = info.name == unread;
  return parameters;
}

bool is_offset_norm(const std::string& name) {
  const bool is_norm = name.ends_with("layernorm.weight") || name.ends_with(".norm.weight");
  return is_norm && name.find(".vision_tower.") == std::string::npos;
}

}  // namespace thaw::pi0
