/// The names that files of pi0 and pi0.5 give their tensors.
#pragma once

#include "../weights_impl.h"
#include "thaw/models/pi0/config.h"

namespace thaw::pi0 {

/// Reads LeRobot's names, with and without "model." in front, openpi's, and PaliGemma's older ones. As LeRobot's loader
/// does, time_mlp_* and action_time_mlp_* stand for each other in names without "model.", and what pi0.5 has no use for
/// (state_proj, plain norms of the expert) is left out of these. A tied embedding may go by embed_tokens or lm_head.
[[nodiscard]] models::Rename rename_for(const Pi0Config& config);

/// Whether the file holds one tensor for the token embedding and lm_head.
[[nodiscard]] bool ties_embedding(const models::WeightsFile& file, const Pi0Config& config);

}  // namespace thaw::pi0
