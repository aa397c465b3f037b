#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/policy/policy.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/compare.h"

namespace thaw::stages_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Multiplies "x" by ten and adds a digit: the result spells which stages ran, in which order.
Stage digit_stage(int digit) {
  return {.info = {.name = std::to_string(digit), .reads = {"x"}, .writes = {"x"}, .parameters = {}},
          .run = [digit](PrefixState& state) { state.set("x", state.at("x") * 10 + digit); }};
}

PrefixState start() {
  PrefixState state;
  state.set("x", at::scalar_tensor(0, at::kLong));
  return state;
}

TEST(RunStages, RunsTheHalfOpenRangeInOrder) {
  const std::vector<Stage> line{digit_stage(1), digit_stage(2), digit_stage(3), digit_stage(4)};
  PrefixState state = start();
  run_stages(line, 1, 3, state);
  EXPECT_TRUE(compare_tensors(state.at("x"), at::scalar_tensor(23, at::kLong)));
  run_stages(line, 3, 4, state);
  EXPECT_TRUE(compare_tensors(state.at("x"), at::scalar_tensor(234, at::kLong)));
  run_stages(line, 4, 4, state);
  EXPECT_TRUE(compare_tensors(state.at("x"), at::scalar_tensor(234, at::kLong)));
}

TEST(RunStages, RangeOutsideOfTheLineThrows) {
  const std::vector<Stage> line{digit_stage(1)};
  PrefixState state = start();
  EXPECT_THAT(message_of<UsageError>([&] { run_stages(line, 0, 2, state); }), HasSubstr("[0, 2)"));
  EXPECT_THAT(message_of<UsageError>([&] { run_stages(line, 1, 0, state); }), HasSubstr("[1, 0)"));
}

TEST(PrefixState, ReadingWhatNoStageWroteThrowsWithTheNearestKey) {
  PrefixState state;
  state.set("prefix.embeddings", at::zeros({1}));
  EXPECT_THAT(message_of<MismatchError>([&] { static_cast<void>(state.at("prefix.embedding")); }),
              AllOf(HasSubstr("'prefix.embedding'"), HasSubstr("'prefix.embeddings'")));
}

TEST(PrefixState, ReplacesAndErases) {
  PrefixState state;
  state.set("k", at::zeros({1}));
  state.set("k", at::ones({2}));
  EXPECT_TRUE(compare_tensors(state.at("k"), at::ones({2})));
  state.erase("k");
  EXPECT_FALSE(state.has("k"));
}

TEST(ModelLayout, UnknownNamesThrowWithTheNearest) {
  const ModelLayout layout{.type = "module",
                           .parameters = {{.name = "head.weight", .shape = {2, 3}}},
                           .stacks = {{.name = "expert", .prefix = "expert.layers", .blocks = 2}},
                           .line = {},
                           .output_key = ""};
  EXPECT_EQ(layout.parameter("head.weight").numel(), 6);
  EXPECT_EQ(layout.stack("expert").blocks, 2);
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(layout.parameter("head.wieght")); }),
              HasSubstr("'head.weight'"));
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(layout.stack("experts")); }), HasSubstr("'expert'"));
}

}  // namespace
}  // namespace thaw::stages_test
