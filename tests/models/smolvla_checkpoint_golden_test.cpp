#include "models/checkpoint_golden.h"

namespace thaw::smolvla_checkpoint_golden_test {
namespace {

TEST(SmolVLACheckpointGolden, RawFramesGiveTheReferencesRobotActions) {
  golden::for_each_set("smolvla", "cases.json", golden::expect_checkpoint);
}

}  // namespace
}  // namespace thaw::smolvla_checkpoint_golden_test
