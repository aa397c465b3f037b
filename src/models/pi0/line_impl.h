/// The line of stages of pi0 and pi0.5: which stage reads, writes and uses what, and the code behind it.
///
/// Keys of PrefixState (legend of network_impl.h; every tensor has the batch in front; S is 1 in pi0, 0 in pi0.5):
///   pixels (B, C, 3, S, S), camera_mask (B, C), tokens and token_mask (B, L)                            from begin()
///   state (B, max_state_dim), pi0 only                                                                  from begin()
///   vision.hidden (B, C, P, Hv), image_tokens (B, C, P, H)
///   prefix.hidden (B, N, H), prefix.rows (B, N) bool, prefix.rotary (B, N, d)
///   prefix.key.<i> and prefix.value.<i> (B, V, N, d)
///   state.hidden (B, 1, He), state.rotary (B, 1, d), state.mask (B, 1, N + 1),
///   state.key.<i> and state.value.<i> (B, V, 1, d), pi0 only
///   suffix.mask (B, T, N + S + T), suffix.rotary (B, T, d)
///   noisy_actions (B, K T, A) and time (B, K) for K draws                                            from add_draw()
///   draw.mask (B, K T, N + S + K T), draw.rotary (B, K T, d): the suffix's for K draws
///   condition (B, K, He), pi0.5 only
///   suffix.hidden (B, K T, He), velocity (B, K T, A)
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "network_impl.h"
#include "thaw/policy/policy.h"

namespace thaw::pi0 {

namespace keys {
inline const std::string kPixels = "pixels";
inline const std::string kCameraMask = "camera_mask";
inline const std::string kTokens = "tokens";
inline const std::string kTokenMask = "token_mask";
inline const std::string kState = "state";
inline const std::string kVisionHidden = "vision.hidden";
inline const std::string kImageTokens = "image_tokens";
inline const std::string kRows = "prefix.hidden";
inline const std::string kRowMask = "prefix.rows";
inline const std::string kRowRotary = "prefix.rotary";
inline const std::string kStateRow = "state.hidden";
inline const std::string kStateRotary = "state.rotary";
inline const std::string kStateMask = "state.mask";
inline const std::string kSuffixMask = "suffix.mask";
inline const std::string kSuffixRotary = "suffix.rotary";
inline const std::string kDrawMask = "draw.mask";
inline const std::string kDrawRotary = "draw.rotary";
inline const std::string kNoisyActions = "noisy_actions";
inline const std::string kTime = "time";
inline const std::string kCondition = "condition";
inline const std::string kSuffixHidden = "suffix.hidden";
inline const std::string kVelocity = "velocity";
inline const std::string kPrefix = "prefix";  ///< stream of the prefix's keys and values
inline const std::string kStateStream = "state";
}  // namespace keys

/// The line for `config`. With a null `network` only the descriptions are of use: run() may not be called.
[[nodiscard]] std::vector<Stage> build_line(const Pi0Config& config, const std::shared_ptr<const Network>& network);

}  // namespace thaw::pi0
