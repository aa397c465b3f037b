/// SmolVLA's computation as pure functions on tensors, one per stage of the line. Nothing here knows PrefixState.
///
/// The prefix is computed in two parts (models.md's staged run): A, the rows of images and language, which attend to
/// each other alone, and B, the row of the state, which attends to A and itself. The suffix, the noisy actions, attends
/// to both.
///
/// Legend: B batch, C cameras, P patches, I tokens per image, L language tokens, N rows of A, T chunk_size, A
/// max_action_dim, Hv / H / He hidden width of vision / language / expert, K key/value heads, d head width.
#pragma once

#include <optional>
#include <vector>

#include "../siglip_impl.h"
#include "thaw/models/smolvla/config.h"
#include "thaw/nn/blocks.h"

namespace thaw::smolvla {

/// What a language block leaves behind: its own keys and values, and the rows for the next block (undefined at the
/// last).
struct LanguageOutput {
  nn::KeyValue own;
  at::Tensor hidden;
};

class Network {
 public:
  /// Keeps handles of the parameters; they follow the module when it moves to another device or dtype.
  Network(SmolVLAConfig config, const nn::ParameterMap& parameters);

  [[nodiscard]] const SmolVLAConfig& config() const noexcept { return config_; }

  /// (B, C, 3, S, S) in [-1, 1] -> (B, C, P, Hv)
  [[nodiscard]] at::Tensor embed_patches(const at::Tensor& pixels) const;
  /// (B, C, P, Hv) -> the same
  [[nodiscard]] at::Tensor vision_block(std::int64_t block, const at::Tensor& hidden) const;
  [[nodiscard]] at::Tensor vision_norm(const at::Tensor& hidden) const;
  /// (B, C, P, Hv) -> (B, C, I, H), not yet scaled
  [[nodiscard]] at::Tensor connect(const at::Tensor& hidden) const;
  /// Rows of A: image tokens (B, C, I, H) scaled, between special tokens where configured, then language (B, L)
  /// -> (B, N, H) in the dtype they come in
  [[nodiscard]] at::Tensor embed_prefix(const at::Tensor& image_tokens, const at::Tensor& tokens) const;

  /// (B, positions) integers -> (B, positions, d) float32
  [[nodiscard]] at::Tensor rotary(const at::Tensor& positions) const;

  /// Rows (B, n, H) through one language block, attending to `before` (if any) and themselves.
  /// mask (B, n or 1, keys) bool. At the last block only keys and values are computed.
  [[nodiscard]] LanguageOutput language_block(std::int64_t block, const at::Tensor& rows, const at::Tensor& rotary,
                                              const std::optional<nn::KeyValue>& before, const at::Tensor& mask) const;

  /// (B, max_state_dim) -> (B, 1, H)
  [[nodiscard]] at::Tensor embed_state(const at::Tensor& state) const;

  /// Keys and values of the prefix as a cross layer of the expert sees them, (B, K, N + 1, d) each.
  [[nodiscard]] nn::KeyValue cross_key_value(std::int64_t expert_layer, const nn::KeyValue& prefix) const;

  /// Noisy actions (B, n T, A) and time (B, n), or (B) for one draw -> (B, n T, He)
  [[nodiscard]] at::Tensor embed_suffix(const at::Tensor& noisy_actions, const at::Tensor& time) const;
  /// Expert layer that attends to the prefix and the suffix itself. mask (B, T, N + 1 + T)
  [[nodiscard]] at::Tensor self_block(std::int64_t expert_layer, const at::Tensor& hidden, const at::Tensor& rotary,
                                      const nn::KeyValue& rows, const nn::KeyValue& state,
                                      const at::Tensor& mask) const;
  /// Expert layer that attends to the projected prefix alone. mask (B, 1, N + 1)
  [[nodiscard]] at::Tensor cross_block(std::int64_t expert_layer, const at::Tensor& hidden, const at::Tensor& rotary,
                                       const nn::KeyValue& prefix, const at::Tensor& mask) const;
  /// (B, T, He) -> after the expert's final norm, at least float32
  [[nodiscard]] at::Tensor expert_norm(const at::Tensor& hidden) const;
  /// (B, T, He) -> velocity (B, T, A), at least float32
  [[nodiscard]] at::Tensor project_actions(const at::Tensor& normed) const;

 private:
  [[nodiscard]] at::Tensor with_special_tokens(const at::Tensor& image_tokens) const;

  SmolVLAConfig config_;
  models::SiglipTower vision_;
  nn::Linear connector_;
  at::Tensor token_embedding_;
  std::vector<nn::DecoderBlock> language_;
  std::vector<nn::DecoderBlock> expert_;
  nn::RmsNorm expert_norm_;
  nn::Linear state_projection_;
  nn::Linear action_in_;
  nn::Linear action_out_;
  nn::Linear time_in_;
  nn::Linear time_out_;
};

}  // namespace thaw::smolvla
