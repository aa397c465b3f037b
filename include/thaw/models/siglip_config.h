/// Sizes of the SigLIP vision tower that several policies begin with.
#pragma once

#include <cstdint>

namespace thaw {

/// Defaults: the tower of SmolVLM2-500M. Reference: transformers SiglipVisionConfig.
struct SiglipConfig {
  std::int64_t hidden_size = 768;
  std::int64_t intermediate_size = 3072;
  std::int64_t layers = 12;
  std::int64_t heads = 12;
  std::int64_t image_size = 512;  ///< side the position table was made for, pixels
  std::int64_t patch_size = 16;
  double layer_norm_eps = 1e-6;

  [[nodiscard]] std::int64_t table_side() const { return image_size / patch_size; }
};

}  // namespace thaw
