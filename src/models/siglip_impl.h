/// The SigLIP vision tower: parameters, computation, stages and costs, for every model that begins with one.
///
/// Legend: B batch, C cameras, S image side, P patches per image, Hv hidden width.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "table_impl.h"
#include "thaw/models/siglip_config.h"
#include "thaw/nn/blocks.h"
#include "thaw/policy/policy.h"

namespace thaw::models {

/// Order in which a tower registers the parameters of a block.
enum class SiglipOrder {
  attention_first,  ///< attention, norm 1, MLP, norm 2 (SmolVLM)
  norm_first,       ///< norm 1, attention, norm 2, MLP (PaliGemma)
};

/// Patch embedding, positions, blocks and final norm below `prefix`.
void add_siglip(Table& table, const SiglipConfig& config, const std::string& prefix, const Part& part,
                SiglipOrder order);

class SiglipTower {
 public:
  /// Keeps handles of the parameters below `prefix`.
  SiglipTower(const SiglipConfig& config, const nn::ParameterMap& parameters, const std::string& prefix);

  /// Pixels (B, C, 3, S, S) in [-1, 1], position_ids (P) int64: rows of the position table -> (B, C, P, Hv)
  [[nodiscard]] at::Tensor embed_patches(const at::Tensor& pixels, const at::Tensor& position_ids) const;
  /// Dtype of the patch embedding, in which pixels are taken.
  [[nodiscard]] at::ScalarType dtype() const { return patch_embedding_.weight.scalar_type(); }
  /// (B, C, P, Hv) -> the same
  [[nodiscard]] at::Tensor block(std::int64_t index, const at::Tensor& hidden) const;
  [[nodiscard]] at::Tensor norm(const at::Tensor& hidden) const;

 private:
  std::int64_t patch_size_;
  nn::Linear patch_embedding_;
  at::Tensor position_embedding_;
  std::vector<nn::VitBlock> blocks_;
  nn::LayerNorm norm_;
};

/// Where a tower stands in a line, for its descriptions and costs.
struct SiglipPlace {
  const SiglipConfig& config;
  std::string prefix;      ///< of its parameters
  std::string pixels_key;  ///< read
  std::string hidden_key;  ///< written
  double images = 1;       ///< C, of one sample at the configured sizes
  double patches = 1;      ///< P
};

/// The descriptions of stages "vision.embed", "vision.<i>" and "vision.post".
[[nodiscard]] StageInfo siglip_embedding_stage(const SiglipPlace& place);
[[nodiscard]] StageInfo siglip_block_stage(const SiglipPlace& place, std::int64_t block);
[[nodiscard]] StageInfo siglip_norm_stage(const SiglipPlace& place);

}  // namespace thaw::models
