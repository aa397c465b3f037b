/// Joint signs and grippers of the Aloha robot, as the pi models were taught them (adapt_to_pi_aloha).
/// Reference: lerobot/policies/smolvla/modeling_smolvla.py (_pi_aloha_*), openpi aloha_policy.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thaw {

/// Least width of a vector of two arms.
inline constexpr std::int64_t kAlohaWidth = 14;

/// Aloha's state to the angular grippers and joint signs of pi. (…, D >= 14), a copy.
[[nodiscard]] at::Tensor aloha_state_to_pi(const at::Tensor& state);
/// The model's actions to Aloha's, and back.
[[nodiscard]] at::Tensor pi_actions_to_aloha(const at::Tensor& actions);
[[nodiscard]] at::Tensor aloha_actions_to_pi(const at::Tensor& actions);

}  // namespace thaw
