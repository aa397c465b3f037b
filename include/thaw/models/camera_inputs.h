/// What a vision tower is given of one batch.
#pragma once

#include <ATen/core/Tensor.h>

namespace thaw {

/// Legend: B batch, C cameras.
struct CameraInputs {
  at::Tensor pixels;  ///< (B, C, 3, height, width) in [-1, 1]
  at::Tensor mask;    ///< (B, C) bool, false where the camera is masked
};

}  // namespace thaw
