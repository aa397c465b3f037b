/// Element types of a policy that is made anew.
#pragma once

namespace thaw {

enum class InitialDtypes {
  float32,    ///< everything float32
  published,  ///< as LeRobot's files: bfloat16, float32 where LeRobot creates float32 (SmolVLA: projections, cross keys
              ///< and values; vision tower, connector and lm_head too unless load_vlm_weights; pi0 and pi0.5: vision
              ///< tower, projector, norms and projections)
};

}  // namespace thaw
