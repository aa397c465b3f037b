/// What SmolVLA's stages cost, from shapes alone.
///
/// Legend: C cameras, P patches per image, I tokens per image, N rows of A (images and language), T chunk_size, H query
/// heads, Q query width, V key/value width.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../costs_impl.h"
#include "thaw/models/smolvla/config.h"
#include "thaw/policy/layout.h"

namespace thaw::smolvla {

/// Sizes of one sample: all configured cameras, text of the greatest length.
struct SampleSizes {
  explicit SampleSizes(const SmolVLAConfig& config);

  double images;       ///< C
  double patches;      ///< P
  double tokens;       ///< I
  double rows;         ///< N
  double chunk;        ///< T
  double heads;        ///< H
  double query_width;  ///< Q
  double kv_width;     ///< V
  double hidden;       ///< of the language model
  double expert_hidden;
};

/// Widths of a block of the language model, and of the expert.
[[nodiscard]] models::DecoderSizes language_widths(const SmolVLAConfig& config);
[[nodiscard]] models::DecoderSizes expert_widths(const SmolVLAConfig& config);

/// Numbers of operations of the forward pass, two per multiply-add, of one sample with one noise draw.
class Flops {
 public:
  explicit Flops(const SmolVLAConfig& config);

  [[nodiscard]] double connector() const;
  [[nodiscard]] double state() const;
  /// A block through which the rows of images and language go; the last one computes keys and values only.
  [[nodiscard]] double rows_block(bool last) const;
  /// The same for the state's row.
  [[nodiscard]] double state_block(bool last) const;
  [[nodiscard]] double cross_keys() const;
  [[nodiscard]] double expert_block(bool self) const;
  /// Of a self layer, what each pair of draws adds: the draws lie along one axis and attention masks them apart.
  [[nodiscard]] double draw_pair() const;
  [[nodiscard]] double suffix_embedding() const;
  [[nodiscard]] double action_projection() const;

 private:
  /// `own` rows through a language block, attending to `seen` keys.
  [[nodiscard]] double language_block(double own, double seen, bool last) const;

  const SmolVLAConfig& config_;
  SampleSizes size_;
};

/// What the stages need of memory, op by op as nn/blocks.cpp and network.cpp run them (see decoder_bytes).
class Bytes {
 public:
  explicit Bytes(const SmolVLAConfig& config);

  [[nodiscard]] StageBytes connector(const std::string& connector) const;
  [[nodiscard]] StageBytes prefix_embedding() const;
  /// `block`: full name of the block, whose parameters are named after it.
  [[nodiscard]] StageBytes rows_block(const std::string& block, bool last) const;
  [[nodiscard]] StageBytes state_block(const std::string& block, bool last) const;
  [[nodiscard]] StageBytes cross_keys(const std::string& block) const;
  [[nodiscard]] StageBytes suffix_embedding(const std::string& time_in, const std::string& time_out) const;
  [[nodiscard]] StageBytes expert_block(const std::string& block, bool self) const;
  [[nodiscard]] StageBytes output(const std::string& projection) const;

 private:
  const SmolVLAConfig& config_;
  SampleSizes size_;
};

/// Every key of PrefixState (line_impl.h) with its size.
[[nodiscard]] std::vector<KeyInfo> key_table(const SmolVLAConfig& config);

}  // namespace thaw::smolvla
