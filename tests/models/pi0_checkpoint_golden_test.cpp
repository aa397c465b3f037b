#include "models/checkpoint_golden.h"

namespace thaw {
namespace {

TEST(Pi0CheckpointGolden, RawFramesGiveTheReferencesRobotActions) {
  golden::for_each_set("pi0", "cases.json", golden::expect_checkpoint);
}

TEST(Pi05CheckpointGolden, RawFramesGiveTheReferencesRobotActions) {
  golden::for_each_set("pi05", "cases.json", golden::expect_checkpoint);
}

}  // namespace
}  // namespace thaw
