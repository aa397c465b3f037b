#include "models/checkpoint_golden.h"

namespace thaw::pi0_checkpoint_golden_test {
namespace {

TEST(Pi0CheckpointGolden, RawFramesGiveTheReferencesRobotActions) {
  golden::for_each_set("pi0", "cases.json", golden::expect_checkpoint);
}

TEST(Pi05CheckpointGolden, RawFramesGiveTheReferencesRobotActions) {
  golden::for_each_set("pi05", "cases.json", golden::expect_checkpoint);
}

}  // namespace
}  // namespace thaw::pi0_checkpoint_golden_test
