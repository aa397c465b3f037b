/// The table of pi0's tensors, in LeRobot's registration order, and the names the network looks them up by.
#pragma once

#include <string>
#include <vector>

#include "thaw/models/initial_dtypes.h"
#include "thaw/models/pi0/config.h"
#include "thaw/policy/layout.h"

namespace thaw::pi0 {

inline const std::string kPaliGemma = "model.paligemma_with_expert.paligemma";
inline const std::string kVision = kPaliGemma + ".model.vision_tower.vision_model";
inline const std::string kProjector = kPaliGemma + ".model.multi_modal_projector.linear";
inline const std::string kLanguage = kPaliGemma + ".model.language_model";
inline const std::string kLanguageLayers = kLanguage + ".layers";
inline const std::string kEmbedding = kLanguage + ".embed_tokens.weight";
inline const std::string kHead = kPaliGemma + ".lm_head.weight";
inline const std::string kExpert = "model.paligemma_with_expert.gemma_expert.model";
inline const std::string kExpertLayers = kExpert + ".layers";
inline const std::string kExpertHead = "model.paligemma_with_expert.gemma_expert.lm_head.weight";
inline const std::string kActionIn = "model.action_in_proj";
inline const std::string kActionOut = "model.action_out_proj";
inline const std::string kStateProjection = "model.state_proj";

/// The two linears of the time MLP: pi0 mixes the actions in, pi0.5 takes the time alone.
[[nodiscard]] inline std::string time_in(const Pi0Config& config) {
  return config.is_pi05() ? "model.time_mlp_in" : "model.action_time_mlp_in";
}
[[nodiscard]] inline std::string time_out(const Pi0Config& config) {
  return config.is_pi05() ? "model.time_mlp_out" : "model.action_time_mlp_out";
}

/// The tensor that tokens are looked up in. Tied, it goes by lm_head's name, as in the published files.
[[nodiscard]] inline std::string token_embedding(const Pi0Config& config) {
  return config.tied_embedding ? kHead : kEmbedding;
}

/// Parameters of a norm of the expert.
[[nodiscard]] std::vector<std::string> expert_norm_parameters(const Pi0Config& config, const std::string& norm);

[[nodiscard]] std::vector<ParameterInfo> parameter_table(const Pi0Config& config, InitialDtypes dtypes);

/// Whether a weight of this name is an offset from 1 (Gemma's norms).
[[nodiscard]] bool is_offset_norm(const std::string& name);

}  // namespace thaw::pi0
