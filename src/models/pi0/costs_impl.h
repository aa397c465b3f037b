/// What the stages of pi0 and pi0.5 cost, from shapes alone. Per sample: all configured cameras, text of the greatest
/// length.
///
/// Legend: C cameras, P patches per image, N rows of the prefix (images and language), S rows of the state in the
/// suffix, T chunk_size.
#pragma once

#include <string>
#include <vector>

#include "../costs_impl.h"
#include "thaw/models/pi0/config.h"

namespace thaw::pi0 {

/// Operations of the forward pass of one sample with one noise draw, two per multiply-add.
struct Cost {
  double flops = 0.0;
  double pair_flops = 0.0;  ///< the part that grows with the square of the number of draws
  StageBytes bytes;
};

class Costs {
 public:
  explicit Costs(const Pi0Config& config);

  [[nodiscard]] double images() const { return images_; }
  [[nodiscard]] double rows() const { return rows_; }

  [[nodiscard]] Cost projector() const;
  [[nodiscard]] Cost prefix_embedding() const;
  /// `block`: full name of the block, whose parameters are named after it.
  [[nodiscard]] Cost language_block(const std::string& block, bool last) const;
  [[nodiscard]] Cost state() const;
  [[nodiscard]] Cost state_block(const std::string& block, bool last) const;
  [[nodiscard]] Cost suffix_embedding() const;
  [[nodiscard]] Cost expert_block(const std::string& block) const;
  [[nodiscard]] Cost output() const;

 private:
  [[nodiscard]] models::DecoderSizes widths(const GemmaConfig& gemma) const;
  /// What an adaptive norm keeps of one condition beside what a plain one keeps.
  [[nodiscard]] DrawBytes modulation() const;

  const Pi0Config& config_;
  double images_;    ///< C
  double rows_;      ///< N
  double chunk_;     ///< T
  double language_;  ///< hidden width
  double expert_;    ///< hidden width
};

/// Every key of PrefixState (line_impl.h) with its size.
[[nodiscard]] std::vector<KeyInfo> key_table(const Pi0Config& config);

}  // namespace thaw::pi0
