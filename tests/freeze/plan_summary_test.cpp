// The table that people read.
#include <sstream>

#include "layouts.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::plan_summary_test {
namespace {

using test::MiniVla;
using testing::HasSubstr;
using testing::Not;

std::string summary_of(const std::string& rules) {
  return LayerFreezePolicy::parse(rules).resolve(MiniVla().layout).summary();
}

TEST(PlanSummary, SaysWhatTrainsWhatItCostsAndWhy) {
  const std::string text = summary_of("vision=0,language=2,expert=all");
  EXPECT_THAT(text, HasSubstr("Freeze plan of mini: vision=0, language=2, expert=all"));
  EXPECT_THAT(text, HasSubstr("vision             2          0     0  none"));
  EXPECT_THAT(text, HasSubstr("language           4          2     0  2..3"));
  EXPECT_THAT(text, HasSubstr("gradient boundary: stage 8 of 20, A.language.2, because of"));
  EXPECT_THAT(text, HasSubstr("(trained by language=2)"));
  EXPECT_THAT(text, HasSubstr("stages: 7 run without grad, 13 with"));
  EXPECT_THAT(text, HasSubstr("model.state_proj.weight makes backward walk 2 language blocks (B.language.0..1)"));
  EXPECT_THAT(text, HasSubstr("GFLOP"));
}

TEST(PlanSummary, ItsNumbersAreThePlans) {
  const FreezePlan plan = LayerFreezePolicy{}.resolve(MiniVla().layout);
  EXPECT_EQ(plan.optimizer_bytes(), 8 * 180);
  EXPECT_EQ(plan.bytes(ParameterClass::trainable), 4 * 180);
  EXPECT_THAT(plan.summary(), HasSubstr("gradients 720 B, optimizer 1.4 KiB (8 bytes for each trainable element)"));
  EXPECT_THAT(plan.summary(), HasSubstr("trainable          12              180"));
}

TEST(PlanSummary, LargeNumbersAreGrouped) {
  ModelLayout layout = MiniVla().layout;
  layout.parameters[0].shape = {123456, 1000};
  EXPECT_THAT(LayerFreezePolicy{}.resolve(layout).summary(), HasSubstr("123,45"));
}

TEST(PlanSummary, StaysWithinAHundredColumns) {
  std::string rules = "vision=[0]";
  for (int i = 0; i < 40; ++i) rules += ",train:*state_proj.weight*,language=[0,2]";
  std::istringstream lines(summary_of(rules));
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100) << line;
}

TEST(PlanSummary, WithoutKnownFlopsNoneAreClaimed) {
  ModelLayout layout = MiniVla().layout;
  for (StageInfo& stage : layout.line) stage.flops = 0;
  EXPECT_THAT(LayerFreezePolicy{}.resolve(layout).summary(), Not(HasSubstr("FLOP")));
}

}  // namespace
}  // namespace thaw::plan_summary_test
