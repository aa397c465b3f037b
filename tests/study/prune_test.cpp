// Choosing blocks of a model from its measures: joined stacks, groups of tokens, limits, and the report.
#include "thaw/study/prune.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <limits>

#include "core/throws.h"
#include "support/temporary_folder.h"
#include "thaw/core/error.h"
#include "train/fake_policy.h"

namespace thaw::prune_test {
namespace {

using test::message_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const double kNoNumber = std::numeric_limits<double>::quiet_NaN();

ModelLayout joined_layout(std::int64_t period = 1) {
  return {.type = "toy",
          .stacks = {{.name = "vision", .prefix = "v", .blocks = 3},
                     {.name = "language", .prefix = "l", .blocks = 5, .joined = "depth", .period = period},
                     {.name = "expert", .prefix = "e", .blocks = 5, .joined = "depth", .period = period}}};
}

/// A group whose successive states have these similarities, by every estimate, and as cosines.
GroupMeasures group_of(const std::string& name, const std::vector<double>& successive) {
  const auto states = static_cast<std::int64_t>(successive.size()) + 1;
  at::Tensor matrix = at::eye(states, at::kDouble);
  for (std::int64_t i = 0; i + 1 < states; ++i) {
    matrix[i][i + 1] = matrix[i + 1][i] = successive[static_cast<std::size_t>(i)];
  }
  return {.name = name,
          .rows = 10,
          .cka = {.biased = matrix, .unbiased = matrix, .trimmed = matrix},
          .concatenated = successive,
          .cosine = matrix,
          .angular = 1.0 - matrix,
          .gate_probe = {}};
}

/// Language without a value for its last block, expert with all five; the language model's blocks are more alike.
MeasureReport report() {
  GroupMeasures image = group_of("image", {0.9, 0.99, 0.95, 0.97});
  GroupMeasures text = group_of("text", {0.8, 0.90, 0.99, 0.97});
  GroupMeasures all = group_of("all", {0.9, 0.95, 0.97, 0.98});
  all.gate_probe = {4.0, 1.0, 2.0, 3.0, kNoNumber};
  GroupMeasures action = group_of("action", {0.5, 0.65, 0.67, 0.60, 0.72});
  action.gate_probe = {4.0, 3.0, 0.5, 3.0, 2.0};
  return {.type = "toy",
          .samples = 2,
          .stacks = {{.name = "language", .blocks = 5, .groups = {all, image, text}},
                     {.name = "expert", .blocks = 5, .groups = {action}}}};
}

PruningChoice chosen(const PruneOptions& options, std::int64_t period = 1) {
  const MeasureReport measures = report();
  return choose_blocks(joined_layout(period), options, &measures);
}

std::string refusal(const PruneOptions& options) {
  return message_of<UsageError>([&] { static_cast<void>(chosen(options)); });
}

TEST(ChooseBlocks, JoinedStacksGetOneListByTheMeanOfTheirSimilarities) {
  const PruningChoice choice = chosen({.remove = 2, .threshold = 0.99});
  // Together: -, 0.80, 0.82, 0.79, and for block 4 the expert's 0.72 seen beside the others' mean: 0.883. From 0.80 on
  // blocks 0 to 2 are a run; block 4 stands alone.
  EXPECT_THAT(choice.removed.at("language"), ElementsAre(1, 2));
  EXPECT_EQ(choice.removed.at("expert"), choice.removed.at("language"));
  EXPECT_FALSE(choice.removed.contains("vision"));
  EXPECT_NEAR(choice.why["scores"]["together"][1].get<double>(), 0.80, 1e-12);
  EXPECT_NEAR(choice.why["scores"]["together"][4].get<double>(), 0.72 + (0.95 + 0.97 + 0.98 - 0.65 - 0.67 - 0.60) / 6,
              1e-12);
  EXPECT_TRUE(choice.why["scores"]["together"][0].is_null());
  EXPECT_TRUE(choice.why["scores"]["language"][4].is_null());
  EXPECT_EQ(choice.why["threshold"]["asked"], 0.99);
  EXPECT_NEAR(choice.why["threshold"]["used"].get<double>(), 0.80, 1e-12);
}

TEST(ChooseBlocks, GroupOfTokensDecides) {
  EXPECT_THAT(chosen({.remove = 1, .group = "image"}).why["scores"]["language"],
              ElementsAre(Json(), Json(0.99), Json(0.95), Json(0.97), Json()));
  EXPECT_TRUE(chosen({.remove = 1, .group = "image"}).why["scores"]["expert"][1].is_null());
  EXPECT_THAT(chosen({.remove = 1, .group = "image"}).removed.at("language"), ElementsAre(1));
  EXPECT_NEAR(chosen({.remove = 1, .group = "mean"}).why["scores"]["language"][1].get<double>(), 0.945, 1e-12);
  EXPECT_THAT(refusal({.remove = 1, .group = "imag"}), HasSubstr("Did you mean 'image'?"));
}

TEST(ChooseBlocks, GateProbesOfJoinedStacksAddUpAndTheLeastGo) {
  const PruningChoice choice = chosen({.method = PruningMethod::gate_probe, .remove = 2});
  EXPECT_THAT(choice.removed.at("expert"), ElementsAre(2, 4));
  EXPECT_EQ(choice.why["scores"]["together"][3], 6.0);
  EXPECT_EQ(choice.why["scores"]["together"][4], 2.0);
}

TEST(ChooseBlocks, LeastInfluenceGoes) {
  const PruningChoice choice = chosen({.method = PruningMethod::block_influence, .remove = 1});
  EXPECT_THAT(choice.removed.at("expert"), ElementsAre(4));
}

TEST(ChooseBlocks, PeriodOfTheStackIsKept) {
  EXPECT_THAT(chosen({.remove = 2}, 2).removed.at("language"), ElementsAre(1, 2));
  EXPECT_THAT(chosen({.method = PruningMethod::gate_probe, .remove = 1}, 2).removed.at("language"), ElementsAre(4));
}

TEST(ChooseBlocks, StackByItselfIsChosenByItself) {
  MeasureReport measures = report();
  measures.stacks.push_back({.name = "vision", .blocks = 3, .groups = {group_of("image", {0.1, 0.4, 0.3})}});
  const PruningChoice choice = choose_blocks(joined_layout(), {.stack = "vision", .remove = 1}, &measures);
  EXPECT_THAT(choice.removed.at("vision"), ElementsAre(1));
  EXPECT_EQ(choice.removed.size(), 1U);
}

TEST(ChooseBlocks, WhatCannotBeChosenThrows) {
  EXPECT_THAT(refusal({.stack = "langage", .remove = 1}), HasSubstr("Did you mean 'language'?"));
  EXPECT_THAT(refusal({.remove = 0}), HasSubstr("blocks to remove: expected at least 1"));
  EXPECT_THAT(refusal({.remove = 3, .minimum_left = 3}),
              HasSubstr("at least 3 of 5 blocks left (the minimum), found 2 with 3 removed"));
  EXPECT_THAT(refusal({.method = PruningMethod::list, .blocks = {0, 1, 2, 3}}), HasSubstr("(the minimum), found 1"));
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(choose_blocks(joined_layout(), {.remove = 1}, nullptr)); }),
              HasSubstr("expected measures of the policy"));
  MeasureReport without_gates = report();
  without_gates.stacks[1].groups[0].gate_probe.clear();
  EXPECT_THAT(message_of<UsageError>([&] {
                static_cast<void>(
                    choose_blocks(joined_layout(), {.method = PruningMethod::gate_probe, .remove = 1}, &without_gates));
              }),
              HasSubstr("the measure that 'gate-probe' ranks by"));
}

TEST(ParsePruningMethod, UnknownWordsThrowWithTheNearest) {
  EXPECT_EQ(parse_pruning_method("gate-probe"), PruningMethod::gate_probe);
  EXPECT_EQ(parse_similarity("trimmed"), Similarity::trimmed);
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(parse_pruning_method("gateprobe")); }),
              HasSubstr("Did you mean 'gate-probe'?"));
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(parse_similarity("cka")); }), HasSubstr("concatenated"));
}

TEST(PruningReport, SaysWhichBlockIsCalledWhatAndHowManyParametersAreLeft) {
  ModelLayout before = joined_layout();
  before.parameters = {{.name = "a", .shape = {6}}, {.name = "b", .shape = {2, 2}}};
  ModelLayout after = before;
  after.parameters.pop_back();
  const Json json = pruning_report(before, after, {.removed = {{"language", {1, 3}}, {"expert", {1, 3}}}, .why = {}});
  EXPECT_THAT(json["stacks"][1]["kept"], ElementsAre(0, 2, 4));
  EXPECT_THAT(json["stacks"][0]["kept"], ElementsAre(0, 1, 2));
  EXPECT_EQ(json["parameters_before"], 10);
  EXPECT_EQ(json["parameters_after"], 6);
  EXPECT_THAT(pruning_table(json), AllOf(HasSubstr("without 1, 3"), HasSubstr("unchanged"), HasSubstr("-40.0 %")));
}

TEST(PruningReport, WhatWasRemovedIsReadBackAndAnythingElseIsRefused) {
  const BlockLists removed{{"expert", {1, 3}}, {"language", {1, 3}}};
  const Json json = pruning_report(joined_layout(), joined_layout(), {.removed = removed, .why = {}});
  EXPECT_EQ(removed_blocks(parse_json(json.dump(), "test"), "test"), removed);
  for (const char* damaged : {"{}", R"({"stacks":[{"name":"expert"}]})", R"({"stacks":[{"removed":["a"]}]})"}) {
    EXPECT_THAT(message_of<FormatError>([&] { (void)removed_blocks(parse_json(damaged, "test"), "pruning.json"); }),
                HasSubstr("pruning.json"))
        << damaged;
  }
}

TEST(WritePruned, PolicyThatCannotBePrunedIsRefusedAndNothingIsWritten) {
  const toy::FakePolicy policy;
  const testing_support::TemporaryFolder folder;
  EXPECT_THAT(message_of<UsageError>(
                  [&] { static_cast<void>(write_pruned(policy, {.removed = {}, .why = {}}, folder.path() / "out")); }),
              AllOf(HasSubstr("fake"), HasSubstr("cannot prune this type yet")));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_THAT(message_of<UsageError>(
                  [&] { static_cast<void>(write_pruned(policy, {.removed = {}, .why = {}}, folder.path())); }),
              HasSubstr("a folder that does not exist yet"));
}

}  // namespace
}  // namespace thaw::prune_test
