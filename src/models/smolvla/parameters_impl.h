/// The table of SmolVLA's tensors, in LeRobot's registration order, and the names the network looks them up by.
#pragma once

#include <string>
#include <vector>

#include "thaw/models/initial_dtypes.h"
#include "thaw/models/smolvla/config.h"
#include "thaw/policy/layout.h"

namespace thaw::smolvla {

inline const std::string kVision = "model.vlm_with_expert.vlm.model.vision_model";
inline const std::string kVisionLayers = kVision + ".encoder.layers";
inline const std::string kConnector = "model.vlm_with_expert.vlm.model.connector.modality_projection.proj";
inline const std::string kText = "model.vlm_with_expert.vlm.model.text_model";
inline const std::string kTextLayers = kText + ".layers";
inline const std::string kHead = "model.vlm_with_expert.vlm.lm_head";
inline const std::string kExpert = "model.vlm_with_expert.lm_expert";
inline const std::string kExpertLayers = kExpert + ".layers";
inline const std::string kStateProjection = "model.state_proj";
inline const std::string kActionIn = "model.action_in_proj";
inline const std::string kActionOut = "model.action_out_proj";
inline const std::string kTimeIn = "model.action_time_mlp_in";
inline const std::string kTimeOut = "model.action_time_mlp_out";

[[nodiscard]] std::vector<ParameterInfo> parameter_table(const SmolVLAConfig& config, InitialDtypes dtypes);

}  // namespace thaw::smolvla
