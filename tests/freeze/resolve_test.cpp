// What rules mean for a model: classes, counting, ties, and every refusal.
#include <set>

#include "layouts.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::resolve_test {
namespace {

using test::message_of;
using test::MiniVla;
using test::Reachability;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

FreezePlan plan_of(const std::string& rules, const ModelLayout& layout = MiniVla().layout) {
  return LayerFreezePolicy::parse(rules).resolve(layout);
}

std::string error_of(const std::string& rules, const ModelLayout& layout = MiniVla().layout) {
  return message_of<UsageError>([&] { (void)plan_of(rules, layout); });
}

const StackPlan& stack_of(const FreezePlan& plan, const std::string& name) {
  return *std::find_if(plan.stacks.begin(), plan.stacks.end(),
                       [&name](const auto& stack) { return stack.name == name; });
}

const PlannedParameter& planned(const FreezePlan& plan, const std::string& name) {
  return *std::find_if(plan.parameters.begin(), plan.parameters.end(),
                       [&name](const auto& parameter) { return parameter.name == name; });
}

const StagePlan& stage_of(const FreezePlan& plan, const std::string& name) {
  return *std::find_if(plan.line.begin(), plan.line.end(), [&name](const auto& stage) { return stage.name == name; });
}

TEST(Resolve, WithoutRulesTheModelsOwnFlagsDecide) {
  const FreezePlan plan = plan_of("");
  EXPECT_EQ(plan.elements(ParameterClass::trainable), 24 + 6 + 15 + 4 * 30 + 15);
  EXPECT_EQ(planned(plan, "model.state_proj.weight").decided_by, "default");
  EXPECT_THAT(stack_of(plan, "expert").trainable_blocks, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(stack_of(plan, "language").trainable_blocks, IsEmpty());
}

TEST(Resolve, WhatNoStageUsesIsDead) {
  const FreezePlan plan = plan_of("");
  EXPECT_THAT(plan.names(ParameterClass::dead),
              ElementsAre("model.text.layers.3.q_proj.weight", "model.text.layers.3.mlp.weight",
                          "model.text.norm.weight", "model.lm_head.weight"));
  EXPECT_EQ(planned(plan, "model.lm_head.weight").decided_by, "line");
  EXPECT_THAT(stack_of(plan, "language").dead_blocks, IsEmpty());
}

TEST(Resolve, WhatOnlyAnUnreadStageUsesIsDead) {
  ModelLayout layout = MiniVla().layout;
  layout.parameters.push_back(test::parameter("probe.weight", {2, 2}));
  layout.parameters.push_back(test::parameter("probe_head.weight", {2, 2}));
  layout.line.push_back({"probe", {"x"}, {"p"}, {"probe.weight"}, 1});
  layout.line.push_back({"probe_head", {"p"}, {"q"}, {"probe_head.weight"}, 1});
  const FreezePlan plan = plan_of("", layout);
  EXPECT_EQ(planned(plan, "probe.weight").parameter_class, ParameterClass::dead);
  EXPECT_EQ(planned(plan, "probe_head.weight").parameter_class, ParameterClass::dead);
  EXPECT_FALSE(stage_of(plan, "probe").backward_walks);
  EXPECT_THAT(error_of("train:probe.weight", layout), HasSubstr("'probe', whose output the loss does not depend on"));
}

TEST(Resolve, ADeadBlockIsNotCountedByLastN) {
  ModelLayout layout = MiniVla().layout;
  // nobody reads keys of the last language block any more, as with fewer expert layers
  for (StageInfo& stage : layout.line) {
    if (stage.name == "expert.3") stage.reads = {"x"};
  }
  const FreezePlan plan = plan_of("language=2", layout);
  EXPECT_THAT(stack_of(plan, "language").trainable_blocks, ElementsAre(1, 2));
  EXPECT_THAT(stack_of(plan, "language").dead_blocks, ElementsAre(3));
  EXPECT_THAT(error_of("language=4", layout),
              AllOf(HasSubstr("expected at most 3, the blocks of 'language' that can learn "
                              "(of 4, the others can never get a gradient), found 4"),
                    HasSubstr("write language=all")));
  EXPECT_THAT(error_of("language=[3]", layout),
              AllOf(HasSubstr("block 3 of 'language', which can never get a gradient"), HasSubstr("can: 0-2.")));
}

TEST(Resolve, AStackRuleDecidesItsBlocksAndNothingElse) {
  const FreezePlan before = plan_of("");
  const FreezePlan after = plan_of("language=2");
  for (std::size_t i = 0; i < after.parameters.size(); ++i) {
    const PlannedParameter& parameter = after.parameters[i];
    if (parameter.stack != "language") {
      EXPECT_EQ(parameter.parameter_class, before.parameters[i].parameter_class) << parameter.name;
    } else if (parameter.parameter_class != ParameterClass::dead) {
      EXPECT_EQ(parameter.parameter_class == ParameterClass::trainable, parameter.block >= 2) << parameter.name;
      EXPECT_EQ(parameter.decided_by, "language=2");
    }
  }
}

TEST(Resolve, FirstLastAllNoneAndListsChooseTheirBlocks) {
  const auto blocks = [](const std::string& rule) { return stack_of(plan_of(rule), "language").trainable_blocks; };
  EXPECT_THAT(blocks("language=1"), ElementsAre(3));
  EXPECT_THAT(blocks("language=first:3"), ElementsAre(0, 1, 2));
  EXPECT_THAT(blocks("language=[0,2-3]"), ElementsAre(0, 2, 3));
  EXPECT_THAT(blocks("language=all"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(blocks("language=all,language=none"), IsEmpty());
  EXPECT_THAT(blocks("language=all,language=0"), IsEmpty());
  EXPECT_THAT(blocks("*=2"), ElementsAre(2, 3));
}

TEST(Resolve, AStarMeansEveryStackThatCanLearn) {
  const FreezePlan plan = plan_of("*=1");
  for (const StackPlan& stack : plan.stacks) EXPECT_THAT(stack.trainable_blocks, ElementsAre(stack.blocks - 1));
  EXPECT_THAT(error_of("*=3"), HasSubstr("expected at most 2, the blocks of 'vision' that can learn, found 3"));
  ModelLayout layout = MiniVla().layout;
  layout.stacks.push_back({"unused", "unused.layers", 3});
  EXPECT_THAT(stack_of(plan_of("*=all", layout), "unused").trainable_blocks, IsEmpty());
  EXPECT_THAT(error_of("unused=1", layout), HasSubstr("'unused', which has no parameters"));
}

TEST(Resolve, AllOfEveryStackAndPatternIsEverythingThatLives) {
  const FreezePlan plan = plan_of("train:*");
  EXPECT_THAT(plan.names(ParameterClass::frozen), IsEmpty());
  const FreezePlan counted = plan_of("train:*,vision=2,language=4,expert=first:4");
  EXPECT_EQ(counted.digest(), plan.digest());
}

TEST(Resolve, LaterRulesWin) {
  EXPECT_FALSE(plan_of("train:*norm*,freeze:@norms").trains("model.expert.layers.0.norm.weight"));
  EXPECT_TRUE(plan_of("freeze:@norms,train:*norm*").trains("model.expert.layers.0.norm.weight"));
  EXPECT_TRUE(plan_of("expert=none,train:/layers\\.[12]\\.norm/").trains("model.expert.layers.2.norm.weight"));
  EXPECT_FALSE(plan_of("expert=none,train:/layers\\.[12]\\.norm/").trains("model.expert.layers.3.norm.weight"));
}

TEST(Resolve, GroupsMatchByTheLayoutsGroups) {
  const FreezePlan plan = plan_of("freeze:*,train:@embeddings,train:@biases");
  EXPECT_THAT(plan.names(ParameterClass::trainable),
              ElementsAre("model.vision.embed.weight", "model.text.embed_tokens.weight", "model.state_proj.bias"));
}

TEST(Resolve, AStackMayBeCalledByAPartOfItsNameThatNoOtherHas) {
  ModelLayout layout = MiniVla().layout;
  for (BlockStack& stack : layout.stacks) {
    const std::string name = "model." + stack.name + ".layers";
    for (ParameterInfo& parameter : layout.parameters) {
      if (parameter.stack == stack.name) parameter.stack = name;
    }
    stack.name = name;
  }
  EXPECT_THAT(stack_of(plan_of("language=1", layout), "model.language.layers").trainable_blocks, ElementsAre(3));
  EXPECT_THAT(stack_of(plan_of("language.layers=2", layout), "model.language.layers").trainable_blocks,
              ElementsAre(2, 3));
  EXPECT_THAT(error_of("layers=1", layout),
              AllOf(HasSubstr("'layers', a part of model.vision.layers, model.language.layers, model.expert.layers"),
                    HasSubstr("Write the full name.")));
  EXPECT_THAT(error_of("lang=1", layout), HasSubstr("expected the name of a block stack, found 'lang'"));
}

TEST(Resolve, RuleThatMatchesNothingThrowsWithNearestNames) {
  EXPECT_THAT(error_of("langauge=2"),
              AllOf(HasSubstr("freeze rule 'langauge=2'"), HasSubstr("'langauge'"), HasSubstr("'language'")));
  EXPECT_THAT(error_of("train:*state_porj*"),
              AllOf(HasSubstr("freeze rule 'train:*state_porj*'"), HasSubstr("none among"), HasSubstr("'state_proj'")));
  EXPECT_THAT(error_of("freeze:/conector\\./"), HasSubstr("'connector'"));
  EXPECT_THAT(error_of("freeze:model.conector.weight"), HasSubstr("'model.connector.weight'"));
  ModelLayout bare = MiniVla().layout;
  for (ParameterInfo& parameter : bare.parameters) parameter.groups.clear();
  EXPECT_THAT(error_of("train:@norms", bare), HasSubstr("freeze rule 'train:@norms'"));
  bare.stacks.clear();
  for (ParameterInfo& parameter : bare.parameters) parameter.stack.clear();
  EXPECT_THAT(error_of("language=2", bare),
              AllOf(HasSubstr("a model with block stacks"), HasSubstr("train: and freeze:")));
}

TEST(Resolve, RuleThatTrainsOnlyDeadParametersIsRefusedWithTheReason) {
  EXPECT_THAT(
      error_of("train:*lm_head*"),
      AllOf(HasSubstr("expected a parameter that can learn"), HasSubstr("found 1 that can never get a gradient"),
            HasSubstr("no stage of the forward pass uses 'model.lm_head.weight'")));
  // freezing them is no more than what is so anyway: LeRobot's own patterns do it
  EXPECT_EQ(plan_of("freeze:*lm_head*").digest(), plan_of("").digest());
  // and a pattern that also matches something alive trains that
  EXPECT_TRUE(plan_of("train:model.text.layers.*.mlp.weight").trains("model.text.layers.2.mlp.weight"));
}

TEST(Resolve, AnIntegerParameterCannotTrain) {
  ModelLayout layout = MiniVla().layout;
  for (ParameterInfo& parameter : layout.parameters) {
    if (parameter.stack == "vision") parameter.dtype = at::kChar;
  }
  EXPECT_THAT(error_of("train:*vision.layers*", layout), HasSubstr("which has no gradient"));
  EXPECT_THAT(error_of("vision=1", layout), HasSubstr("which has no gradient"));
  EXPECT_FALSE(plan_of("train:*", layout).trains("model.vision.layers.0.mlp.weight"));
  EXPECT_EQ(planned(plan_of("train:*", layout), "model.vision.layers.0.mlp.weight").parameter_class,
            ParameterClass::frozen);
}

TEST(Resolve, MoreBlocksThanThereAreIsRefusedWithTheirNumber) {
  EXPECT_THAT(error_of("language=5"),
              HasSubstr("expected at most 4, the blocks of 'language' that can learn, found 5"));
  EXPECT_THAT(error_of("language=first:5"), HasSubstr("expected at most 4"));
  EXPECT_THAT(error_of("language=[4]"), HasSubstr("expected blocks 0 to 3 of 'language', found 4"));
}

TEST(Resolve, APlanThatTrainsNothingIsRefused) {
  EXPECT_THAT(error_of("freeze:*"),
              AllOf(HasSubstr("freeze rules 'freeze:*'"), HasSubstr("trains at least one tensor, found none")));
  ModelLayout layout = MiniVla().layout;
  for (ParameterInfo& parameter : layout.parameters) parameter.trainable_by_default = false;
  EXPECT_THAT(error_of("", layout), HasSubstr("the model's own default"));
}

TEST(Resolve, ALayoutThatContradictsItselfIsRefused) {
  const auto broken = [](const auto& spoil) {
    ModelLayout layout = MiniVla().layout;
    spoil(layout);
    return error_of("", layout);
  };
  EXPECT_THAT(broken([](ModelLayout& layout) { layout.output_key = "nothing"; }),
              HasSubstr("a stage that writes the output"));
  EXPECT_THAT(broken([](ModelLayout& layout) { layout.line[0].parameters = {"ghost"}; }), HasSubstr("'ghost'"));
  EXPECT_THAT(broken([](ModelLayout& layout) { layout.parameters.push_back(layout.parameters[0]); }),
              HasSubstr("twice"));
  EXPECT_THAT(broken([](ModelLayout& layout) { layout.stacks.push_back(layout.stacks[0]); }),
              HasSubstr("'vision' twice"));
  EXPECT_THAT(broken([](ModelLayout& layout) { layout.stacks[1].blocks = 2; }), HasSubstr("in block 2 of 'language'"));
}

TEST(Resolve, StateProjMakesBackwardWalkOnlyTheStateRow) {
  const FreezePlan plan = plan_of("");
  EXPECT_EQ(plan.line[plan.boundary].name, "state");
  EXPECT_EQ(plan.boundary_parameter, "model.state_proj.weight");
  EXPECT_THAT(plan.backward_causes,
              ElementsAre("model.state_proj.weight makes backward walk 4 language blocks (B.language.0..3)"));
  EXPECT_FALSE(stage_of(plan, "A.language.3").runs_under_grad);
  EXPECT_TRUE(stage_of(plan, "B.language.0").backward_walks);
  EXPECT_EQ(stage_of(plan, "state").backward_flops, 5);          // weight gradients only
  EXPECT_EQ(stage_of(plan, "B.language.0").backward_flops, 30);  // input gradients only
  EXPECT_EQ(stage_of(plan, "expert.0").backward_flops, 2 * 50);  // both
  EXPECT_EQ(stage_of(plan, "A.language.0").backward_flops, 0);
}

TEST(Resolve, FreezingStateProjMovesTheBoundaryToTheSuffix) {
  const FreezePlan plan = plan_of("freeze:*state_proj*");
  EXPECT_EQ(plan.line[plan.boundary].name, "action_in");
  EXPECT_THAT(plan.backward_causes, IsEmpty());
  EXPECT_FALSE(stage_of(plan, "B.language.3").backward_walks);
  EXPECT_EQ(stage_of(plan, "expert.0").backward_flops, 2 * 50);
}

TEST(Resolve, ATrainedBlockBelowFrozenOnesMakesBackwardWalkThem) {
  const FreezePlan plan = plan_of("language=[1],expert=1,freeze:@projectors,train:*action_out*");
  EXPECT_EQ(plan.line[plan.boundary].name, "A.language.1");
  // expert.0 reads keys of language block 0 only: nothing trainable is below it
  EXPECT_THAT(
      plan.backward_causes,
      ElementsAre("model.text.layers.1.input_norm.weight makes backward walk 2 expert blocks (expert.1..2) and 2 "
                  "language blocks (A.language.2..3, B.language.2..3)"));
}

TEST(Resolve, EachTrainedStageAnswersForWhatOnlyItMakesBackwardWalk) {
  EXPECT_THAT(plan_of("language=2,expert=all").backward_causes,
              ElementsAre("model.state_proj.weight makes backward walk 2 language blocks (B.language.0..1)"));
  EXPECT_THAT(plan_of("language=[2]").backward_causes,
              ElementsAre("model.text.layers.2.input_norm.weight makes backward walk 1 language block (A.language.3, "
                          "B.language.3)",
                          "model.state_proj.weight makes backward walk 2 language blocks (B.language.0..1)"));
}

TEST(Resolve, FrozenStagesWithoutBlocksAreNamedToo) {
  EXPECT_THAT(plan_of("freeze:*,vision=1").backward_causes,
              ElementsAre("model.vision.layers.1.mlp.weight makes backward walk 4 expert blocks (expert.0..3) and 4 "
                          "language blocks (A.language.0..3, B.language.0..3) and 3 frozen stages (connector, embed, "
                          "action_out)"));
}

TEST(Resolve, WeightGradientsCostTheirShareOfTheBytes) {
  ModelLayout layout = MiniVla().layout;
  const FreezePlan plan = plan_of("expert=none,train:*expert.layers.2.norm*,train:*state_proj*", layout);
  EXPECT_DOUBLE_EQ(stage_of(plan, "expert.2").backward_flops, 50 * (1 + 5.0 / 30.0));
  layout
      .parameters[static_cast<std::size_t>(&layout.parameter("model.expert.layers.2.norm.weight") -
                                           layout.parameters.data())]
      .dtype = at::kBFloat16;
  const FreezePlan mixed = plan_of("expert=none,train:*expert.layers.2.norm*,train:*state_proj*", layout);
  EXPECT_DOUBLE_EQ(stage_of(mixed, "expert.2").backward_flops, 50 * (1 + 10.0 / 110.0));
}

TEST(Resolve, ClassesBoundaryAndWalksEqualReachabilityOnRandomLines) {
  std::mt19937 random(11);
  int planned_lines = 0;
  for (int round = 0; round < 400; ++round) {
    SCOPED_TRACE(round);
    const ModelLayout layout = test::random_layout(random);
    const Reachability graph(layout);
    const auto trains = [&](const std::string& name) {
      return layout.parameter(name).trainable_by_default && !graph.is_dead(layout, name);
    };
    const bool any = std::any_of(layout.parameters.begin(), layout.parameters.end(),
                                 [&trains](const ParameterInfo& info) { return trains(info.name); });
    if (!any) {
      EXPECT_THAT(error_of("", layout), HasSubstr("trains at least one tensor"));
      continue;
    }
    ++planned_lines;
    const FreezePlan plan = plan_of("", layout);
    for (const PlannedParameter& parameter : plan.parameters) {
      EXPECT_EQ(parameter.parameter_class == ParameterClass::dead, graph.is_dead(layout, parameter.name));
      EXPECT_EQ(plan.trains(parameter.name), trains(parameter.name));
    }
    const auto trains_here = [&](std::size_t stage) {
      const auto& names = layout.line[stage].parameters;
      return std::any_of(names.begin(), names.end(), trains);
    };
    std::size_t boundary = 0;
    while (!trains_here(boundary) || !graph.matters(boundary)) ++boundary;
    EXPECT_EQ(plan.boundary, boundary);
    EXPECT_TRUE(trains(plan.boundary_parameter) && Reachability::uses(layout.line[boundary], plan.boundary_parameter));
    for (std::size_t i = 0; i < layout.line.size(); ++i) {
      bool reads_gradient = false;
      for (std::size_t j = 0; j < i; ++j) reads_gradient = reads_gradient || (trains_here(j) && graph.reaches(j, i));
      const bool walks = (reads_gradient || trains_here(i)) && graph.matters(i);
      EXPECT_EQ(plan.line[i].backward_walks, walks) << i;
      EXPECT_EQ(plan.line[i].runs_under_grad, i >= boundary) << i;
      double trained = 0;
      double all = 0;
      for (const std::string& name : layout.line[i].parameters) {
        const auto elements = static_cast<double>(layout.parameter(name).numel());
        all += elements;
        trained += trains(name) ? elements : 0;
      }
      const double passes = (reads_gradient ? 1 : 0) + (all > 0 ? trained / all : 0);
      EXPECT_DOUBLE_EQ(plan.line[i].backward_flops, walks ? passes * layout.line[i].flops : 0) << i;
    }
  }
  EXPECT_GT(planned_lines, 200);
}

/// The rules stated anew: for each parameter the last rule that speaks of it decides.
class NaiveRules {
 public:
  explicit NaiveRules(const ModelLayout& layout) : layout_(layout), graph_(layout) {}

  struct Rule {
    std::string text;
    std::string stack;  ///< or empty for a pattern
    std::string part;   ///< a pattern matches names that hold this
    int first = 0;      ///< blocks [first, last) by rank among those that can learn
    int last = 0;
    bool train = false;
  };

  [[nodiscard]] std::vector<std::int64_t> able(const std::string& stack) const {
    std::set<std::int64_t> blocks;
    for (const ParameterInfo& info : layout_.parameters) {
      if (info.stack == stack && !graph_.is_dead(layout_, info.name)) blocks.insert(info.block);
    }
    return {blocks.begin(), blocks.end()};
  }

  [[nodiscard]] bool trains(const ParameterInfo& info, const std::vector<Rule>& rules) const {
    if (graph_.is_dead(layout_, info.name)) return false;
    for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
      if (rule->stack.empty()) {
        if (info.name.find(rule->part) != std::string::npos) return rule->train;
      } else if (info.stack == rule->stack) {
        const auto blocks = able(info.stack);
        const auto rank = std::find(blocks.begin(), blocks.end(), info.block) - blocks.begin();
        return rank >= rule->first && rank < rule->last;
      }
    }
    return info.trainable_by_default;
  }

 private:
  const ModelLayout& layout_;
  Reachability graph_;
};

TEST(Resolve, RandomRuleListsDecideAsTheLastRuleThatSpeaks) {
  std::mt19937 random(3);
  const auto below = [&random](std::size_t n) { return static_cast<int>(random() % n); };
  int planned_lists = 0;
  for (int round = 0; round < 600; ++round) {
    SCOPED_TRACE(round);
    const ModelLayout layout = test::random_layout(random);
    const NaiveRules naive(layout);
    std::vector<NaiveRules::Rule> rules;
    for (int i = below(5); i > 0; --i) {
      NaiveRules::Rule rule{.stack = below(2) == 0 ? "left" : "right"};
      const int able = static_cast<int>(naive.able(rule.stack).size());
      const int kind = below(4);
      if (kind == 0) {
        rule.last = able;
        rule.first = able - below(static_cast<std::size_t>(able) + 1);
        rule.text = rule.stack + "=" + std::to_string(rule.last - rule.first);
      } else if (kind == 1) {
        rule.last = below(static_cast<std::size_t>(able) + 1);
        rule.text = rule.stack + "=first:" + std::to_string(rule.last);
      } else {
        rule.part =
            layout.parameters[static_cast<std::size_t>(below(layout.parameters.size()))].name.substr(0, 6 + kind);
        rule.stack.clear();
        rule.train = kind == 3;
        rule.text = (rule.train ? "train:*" : "freeze:*") + rule.part + "*";
      }
      rules.push_back(rule);
    }
    std::string text;
    for (const auto& rule : rules) text += (text.empty() ? "" : ",") + rule.text;
    const auto trains = [&](const ParameterInfo& info) { return naive.trains(info, rules); };
    if (std::none_of(layout.parameters.begin(), layout.parameters.end(), trains)) {
      EXPECT_THROW((void)plan_of(text, layout), UsageError) << text;
      continue;
    }
    FreezePlan plan;
    try {
      plan = plan_of(text, layout);
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("expected a parameter that can learn")) << text;
      continue;
    }
    ++planned_lists;
    for (const ParameterInfo& info : layout.parameters)
      EXPECT_EQ(plan.trains(info.name), trains(info)) << text << " " << info.name;
  }
  EXPECT_GT(planned_lists, 200);
}

}  // namespace
}  // namespace thaw::resolve_test
