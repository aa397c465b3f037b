/// What SmolVLA's stages cost, from shapes alone.
#pragma once

#include <cstdint>

#include "thaw/models/smolvla/config.h"

namespace thaw::smolvla {

/// Numbers of operations of the forward pass, two per multiply-add, of one sample at the configured sizes: all
/// configured cameras, text of the greatest length.
class Flops {
 public:
  explicit Flops(const SmolVLAConfig& config);

  [[nodiscard]] double patches() const;
  [[nodiscard]] double vision_block() const;
  [[nodiscard]] double connector() const;
  [[nodiscard]] double state() const;
  /// A block through which the rows of images and language go; the last one computes keys and values only.
  [[nodiscard]] double rows_block(bool last) const;
  /// The same for the state's row.
  [[nodiscard]] double state_block(bool last) const;
  [[nodiscard]] double cross_keys() const;
  [[nodiscard]] double expert_block(bool self) const;
  [[nodiscard]] double suffix_embedding() const;
  [[nodiscard]] double action_projection() const;

 private:
  [[nodiscard]] double image_patches() const;
  [[nodiscard]] double actions() const;
  /// `own` rows through a language block, attending to `seen` keys.
  [[nodiscard]] double language_block(double own, double seen, bool last) const;
  /// Query and output projection, attention, gated MLP.
  [[nodiscard]] double rest(double own, double seen, double hidden, std::int64_t intermediate) const;

  const SmolVLAConfig& config_;
  double images_ = 0;
  double rows_ = 0;
  double query_width_ = 0;
  double kv_width_ = 0;
  double chunk_ = 0;
  double hidden_ = 0;
  double expert_hidden_ = 0;
};

}  // namespace thaw::smolvla
