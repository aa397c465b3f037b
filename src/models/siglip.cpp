#include <ATen/ATen.h>

#include "costs_impl.h"
#include "line_parts_impl.h"
#include "siglip_impl.h"

namespace thaw::models {
namespace {

std::string layers(const std::string& prefix) { return prefix + ".encoder.layers"; }

void add_attention(Table& table, const Part& part, const std::string& block, std::int64_t width) {
  for (const char* projection : {"k_proj", "v_proj", "q_proj", "out_proj"}) {
    table.add_biased(part, block + ".self_attn." + projection, {width, width});
  }
}

void add_mlp(Table& table, const Part& part, const std::string& block, const SiglipConfig& config) {
  table.add_biased(part, block + ".mlp.fc1", {config.intermediate_size, config.hidden_size});
  table.add_biased(part, block + ".mlp.fc2", {config.hidden_size, config.intermediate_size});
}

void add_block(Table& table, const Part& part, const std::string& block, const SiglipConfig& config,
               SiglipOrder order) {
  const std::int64_t width = config.hidden_size;
  const bool norm_first = order == SiglipOrder::norm_first;
  if (norm_first) table.add_biased(part, block + ".layer_norm1", {width});
  add_attention(table, part, block, width);
  table.add_biased(part, block + (norm_first ? ".layer_norm2" : ".layer_norm1"), {width});
  add_mlp(table, part, block, config);
  if (!norm_first) table.add_biased(part, block + ".layer_norm2", {width});
}

}  // namespace

void add_siglip(Table& table, const SiglipConfig& config, const std::string& prefix, const Part& part,
                SiglipOrder order) {
  const std::int64_t width = config.hidden_size;
  table.add_biased(part, prefix + ".embeddings.patch_embedding", {width, 3, config.patch_size, config.patch_size});
  table.add(part, prefix + ".embeddings.position_embedding.weight", {config.table_side() * config.table_side(), width});
  for (std::int64_t i = 0; i < config.layers; ++i) {
    add_block(table, part.in("vision", i), numbered(layers(prefix), i), config, order);
  }
  table.add_biased(part, prefix + ".post_layernorm", {width});
}

SiglipTower::SiglipTower(const SiglipConfig& config, const nn::ParameterMap& parameters, const std::string& prefix)
    : patch_size_(config.patch_size),
      patch_embedding_(nn::find_linear(parameters, prefix + ".embeddings.patch_embedding")),
      position_embedding_(nn::find_parameter(parameters, prefix + ".embeddings.position_embedding.weight")),
      norm_(nn::find_layer_norm(parameters, prefix + ".post_layernorm", config.layer_norm_eps)) {
  for (std::int64_t i = 0; i < config.layers; ++i) {
    blocks_.push_back(nn::find_vit_block(parameters, numbered(layers(prefix), i), config.heads, config.layer_norm_eps));
  }
}

at::Tensor SiglipTower::embed_patches(const at::Tensor& pixels, const at::Tensor& position_ids) const {
  const at::Tensor& weight = patch_embedding_.weight;
  const at::Tensor bias = patch_embedding_.bias.to(weight.scalar_type());
  const at::Tensor images = pixels.flatten(0, 1).to(weight.scalar_type());
  const at::Tensor patches = at::conv2d(images, weight, bias, /*stride=*/patch_size_).flatten(2).transpose(1, 2);
  const at::Tensor positions = at::embedding(position_embedding_, position_ids.to(pixels.device()));
  return (patches + positions).view({pixels.size(0), pixels.size(1), patches.size(1), patches.size(2)});
}

at::Tensor SiglipTower::block(std::int64_t index, const at::Tensor& hidden) const {
  return nn::vit_block(blocks_.at(index), hidden.flatten(0, 1)).view(hidden.sizes());
}

at::Tensor SiglipTower::norm(const at::Tensor& hidden) const { return nn::layer_norm(hidden, norm_); }

StageInfo siglip_embedding_stage(const SiglipPlace& place) {
  const SiglipConfig& config = place.config;
  const double rows = place.images * place.patches;
  // The convolution lays its patches out as rows, and the positions are added to a copy.
  return {.name = "vision.embed",
          .reads = {place.pixels_key},
          .writes = {place.hidden_key},
          .parameters = joined({weight_and_bias(place.prefix + ".embeddings.patch_embedding"),
                                {place.prefix + ".embeddings.position_embedding.weight"}}),
          .flops = product_flops(rows, real(3 * config.patch_size * config.patch_size), real(config.hidden_size)),
          .bytes = {.workspace = floats(rows * real(config.hidden_size))}};
}

StageInfo siglip_block_stage(const SiglipPlace& place, std::int64_t block) {
  const std::string prefix = numbered(layers(place.prefix), block);
  const double width = real(place.config.hidden_size);
  const double inner_width = real(place.config.intermediate_size);
  const double rows = place.images * place.patches;
  const DrawBytes hidden = floats(rows * width);
  const DrawBytes inner = floats(rows * inner_width);
  const DrawBytes log_sum = floats(rows * real(place.config.heads));
  StageInfo info{.name = numbered("vision", block), .reads = {place.hidden_key}, .writes = {place.hidden_key}};
  for (const char* module : {".self_attn.k_proj", ".self_attn.v_proj", ".self_attn.q_proj", ".self_attn.out_proj",
                             ".layer_norm1", ".mlp.fc1", ".mlp.fc2", ".layer_norm2"}) {
    info.parameters = joined({info.parameters, weight_and_bias(prefix + module)});
  }
  info.flops = product_flops(rows, width, 4 * width + 2 * inner_width) + 2 * product_flops(rows, place.patches, width);
  // query, key, value and what attention makes of them (the input of the output projection); the residual; GELU's
  // input; the norms' statistics
  info.bytes.saved = 5.0 * hidden + inner + floats(4 * rows) + log_sum;
  info.bytes.saved_for = {{hidden, weights(prefix, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})},
                          {hidden, weights(prefix, {"mlp.fc1"})},
                          {inner, weights(prefix, {"mlp.fc2"})}};
  // At GELU: first norm, query, key, value, attention, residual, second norm, and its input and output.
  info.bytes.workspace = 7.0 * hidden + 2.0 * inner + log_sum;
  info.block = {.stack = "vision", .block = block, .stream = place.hidden_key};
  return info;
}

StageInfo siglip_norm_stage(const SiglipPlace& place) {
  return {.name = "vision.post",
          .reads = {place.hidden_key},
          .writes = {place.hidden_key},
          .parameters = weight_and_bias(place.prefix + ".post_layernorm"),
          .bytes = {.saved = floats(2 * place.images * place.patches)}};
}

}  // namespace thaw::models
