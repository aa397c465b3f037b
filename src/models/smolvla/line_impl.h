/// SmolVLA's line of stages: which stage reads, writes and uses what, and the code behind it.
///
/// Keys of PrefixState (legend of network_impl.h; every tensor has the batch in front):
///   pixels (B, C, 3, S, S), camera_mask (B, C), tokens and token_mask (B, L), state (B, max_state_dim)   from begin()
///   vision.hidden (B, C, P, Hv), image_tokens (B, C, I, H)
///   A.hidden (B, N, H), A.mask (B, N), A.rotary (B, N, d), A.key.<i> and A.value.<i> (B, K, N, d)
///   B.hidden (B, 1, H), B.rotary (B, 1, d), B.key.<i> and B.value.<i> (B, K, 1, d)
///   prefix.mask (B, 1, N + 1), suffix.mask (B, T, N + 1 + T), suffix.rotary and cross.rotary (B, T, d)
///   cross.key.<e> and cross.value.<e> (B, K, N + 1, d)
///   noisy_actions (B, n T, A) and time (B, n) for n draws                                              from add_draw()
///   draw.mask (B, n T, N + 1 + n T), draw.rotary and draw.cross_rotary (B, n T, d): the suffix's for n draws
///   suffix.hidden (B, n T, He), velocity (B, n T, A)
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "network_impl.h"
#include "thaw/policy/policy.h"

namespace thaw::smolvla {

namespace keys {
inline const std::string kPixels = "pixels";
inline const std::string kCameraMask = "camera_mask";
inline const std::string kTokens = "tokens";
inline const std::string kTokenMask = "token_mask";
inline const std::string kState = "state";
inline const std::string kVisionHidden = "vision.hidden";
inline const std::string kImageTokens = "image_tokens";
inline const std::string kRows = "A.hidden";
inline const std::string kRowMask = "A.mask";
inline const std::string kRowRotary = "A.rotary";
inline const std::string kStateRow = "B.hidden";
inline const std::string kStateRotary = "B.rotary";
inline const std::string kPrefixMask = "prefix.mask";
inline const std::string kSuffixMask = "suffix.mask";
inline const std::string kSuffixRotary = "suffix.rotary";
inline const std::string kCrossRotary = "cross.rotary";
inline const std::string kDrawMask = "draw.mask";
inline const std::string kDrawRotary = "draw.rotary";
inline const std::string kDrawCrossRotary = "draw.cross_rotary";
inline const std::string kNoisyActions = "noisy_actions";
inline const std::string kTime = "time";
inline const std::string kSuffixHidden = "suffix.hidden";
inline const std::string kVelocity = "velocity";
}  // namespace keys

/// The line for `config`. With a null `network` only the descriptions are of use: run() may not be called.
[[nodiscard]] std::vector<Stage> build_line(const SmolVLAConfig& config, const std::shared_ptr<const Network>& network);

}  // namespace thaw::smolvla
