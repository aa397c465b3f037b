#include "thaw/models/aloha.h"

#include <ATen/ATen.h>

#include <array>

namespace thaw {
namespace {

constexpr std::array<std::int64_t, 4> kMirroredJoints{1, 2, 8, 9};
constexpr std::array<std::int64_t, 2> kGrippers{6, 13};

struct Range {
  double low = 0.0;
  double high = 1.0;
};

constexpr Range kPuppetGripperPosition{0.01844, 0.05800};  ///< metres, closed and open (Aloha)
constexpr Range kPuppetGripperJoint{-0.6213, 1.4910};      ///< radians, closed and open (Aloha)
constexpr Range kPiGripper{0.4, 1.5};                      ///< radians, as pi measures
constexpr double kGripperArm = 0.036;                      ///< metres (Interbotix)
constexpr double kGripperHorn = 0.022;

at::Tensor normalise(const at::Tensor& x, Range range) { return (x - range.low) / (range.high - range.low); }
at::Tensor unnormalise(const at::Tensor& x, Range range) { return x * (range.high - range.low) + range.low; }

at::Tensor linear_gripper_to_angle(const at::Tensor& opening) {
  const at::Tensor position = unnormalise(opening, kPuppetGripperPosition);
  const at::Tensor sine = (position * position + (kGripperHorn * kGripperHorn - kGripperArm * kGripperArm)) /
                          (2.0 * kGripperHorn * position);
  return normalise(sine.clamp(-1.0, 1.0).asin(), kPiGripper);
}

at::Tensor mirror_joints(const at::Tensor& vectors) {
  at::Tensor out = vectors.clone();
  for (const std::int64_t joint : kMirroredJoints) out.select(-1, joint).neg_();
  return out;
}

template <class Map>
at::Tensor map_grippers(at::Tensor vectors, Map map) {
  for (const std::int64_t gripper : kGrippers) {
    at::Tensor column = vectors.select(-1, gripper);
    column.copy_(map(column));
  }
  return vectors;
}

}  // namespace

at::Tensor aloha_state_to_pi(const at::Tensor& state) {
  return map_grippers(mirror_joints(state), linear_gripper_to_angle);
}

at::Tensor pi_actions_to_aloha(const at::Tensor& actions) {
  return map_grippers(mirror_joints(actions), [](const at::Tensor& gripper) {
    return normalise(unnormalise(gripper, kPiGripper), kPuppetGripperJoint);
  });
}

at::Tensor aloha_actions_to_pi(const at::Tensor& actions) {
  return map_grippers(mirror_joints(actions), [](const at::Tensor& gripper) {
    return normalise(unnormalise(gripper, kPuppetGripperJoint), kPiGripper);
  });
}

}  // namespace thaw
