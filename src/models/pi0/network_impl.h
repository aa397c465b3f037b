/// The computation of pi0 and pi0.5 as pure functions on tensors, one per stage of the line. Nothing here knows
/// PrefixState.
///
/// The prefix, rows of images and language, attends to itself alone, so it runs first; the expert's rows attend to its
/// keys and values, block by block. In pi0 the state's row of the expert comes between the two: it sees the prefix and
/// itself, and the actions see it.
///
/// Legend: B batch, C cameras, P patches and tokens per image, L language tokens, N rows of the prefix, K draws, T
/// chunk_size, A max_action_dim, Hv / H / He hidden width of vision / language / expert, V key/value heads, d head
/// width.
#pragma once

#include <vector>

#include "../siglip_impl.h"
#include "thaw/models/pi0/config.h"
#include "thaw/nn/gemma.h"

namespace thaw::pi0 {

/// What a block leaves behind: keys and values of its rows, and the rows for the next block (undefined at the last).
struct BlockOutput {
  nn::KeyValue own;
  at::Tensor hidden;
};

class Network {
 public:
  /// Keeps handles of the parameters; they follow the module when it moves to another device or dtype.
  Network(Pi0Config config, const nn::ParameterMap& parameters);

  [[nodiscard]] const Pi0Config& config() const noexcept { return config_; }

  /// (B, C, 3, S, S) in [-1, 1] -> (B, C, P, Hv)
  [[nodiscard]] at::Tensor embed_patches(const at::Tensor& pixels) const;
  /// (B, C, P, Hv) -> the same
  [[nodiscard]] at::Tensor vision_block(std::int64_t block, const at::Tensor& hidden) const;
  [[nodiscard]] at::Tensor vision_norm(const at::Tensor& hidden) const;
  /// (B, C, P, Hv) -> (B, C, P, H), not scaled
  [[nodiscard]] at::Tensor project(const at::Tensor& hidden) const;
  /// Image tokens (B, C, P, H), then language (B, L) scaled -> (B, N, H) in the dtype of the first block
  [[nodiscard]] at::Tensor embed_prefix(const at::Tensor& image_tokens, const at::Tensor& tokens) const;

  /// (B, positions) integers -> (B, positions, d) float32
  [[nodiscard]] at::Tensor rotary(const at::Tensor& positions) const;

  /// Rows (B, N, H) through one language block; mask (B, 1, N) bool. At the last block only keys and values are
  /// computed.
  [[nodiscard]] BlockOutput language_block(std::int64_t block, const at::Tensor& rows, const at::Tensor& rotary,
                                           const at::Tensor& mask) const;

  /// (B, max_state_dim) -> (B, 1, He). pi0 only.
  [[nodiscard]] at::Tensor embed_state(const at::Tensor& state) const;
  /// The state's row through one block of the expert; mask (B, 1, N + 1). At the last block only keys and values.
  [[nodiscard]] BlockOutput state_block(std::int64_t block, const at::Tensor& row, const at::Tensor& rotary,
                                        const nn::KeyValue& prefix, const at::Tensor& mask) const;

  /// Noisy actions (B, K · T, A) and time (B, K) -> (B, K · T, He)
  [[nodiscard]] at::Tensor embed_suffix(const at::Tensor& noisy_actions, const at::Tensor& time) const;
  /// Time (B, K) -> what the expert's norms are driven by, (B, K, He). pi0.5 only.
  [[nodiscard]] at::Tensor condition(const at::Tensor& time) const;

  /// Rows (B, K · T, He) through one block of the expert, attending to `before` and themselves.
  /// mask (B, K · T, keys); condition (B, K, He), undefined in pi0.
  [[nodiscard]] at::Tensor expert_block(std::int64_t block, const at::Tensor& hidden, const at::Tensor& rotary,
                                        std::vector<nn::KeyValue> before, const at::Tensor& mask,
                                        const at::Tensor& condition) const;
  /// (B, K · T, He) -> after the expert's final norm, at least float32
  [[nodiscard]] at::Tensor expert_norm(const at::Tensor& hidden, const at::Tensor& condition) const;
  /// (B, K · T, He) -> velocity (B, K · T, A), at least float32
  [[nodiscard]] at::Tensor project_actions(const at::Tensor& normed) const;

 private:
  [[nodiscard]] bool is_last(std::int64_t block) const { return block + 1 == config_.blocks(); }
  /// (B, K) -> (B, K, He) in the dtype of the time MLP
  [[nodiscard]] at::Tensor embed_time(const at::Tensor& time) const;

  Pi0Config config_;
  models::SiglipTower vision_;
  nn::Linear projector_;
  at::Tensor token_embedding_;
  std::vector<nn::GemmaBlock> language_;
  std::vector<nn::GemmaBlock> expert_;
  nn::GemmaNorm expert_norm_;
  nn::Linear state_projection_;  ///< undefined in pi0.5
  nn::Linear action_in_;
  nn::Linear action_out_;
  nn::Linear time_in_;
  nn::Linear time_out_;
};

}  // namespace thaw::pi0
