// The tables of tensors of pi0 and pi0.5 and their lines, from the configuration alone.
#include <set>

#include "models/tiny_pi.h"
#include "thaw/core/error.h"
#include "thaw/models/pi0/layout.h"
#include "thaw/models/registry.h"
#include "thaw/policy/run.h"

namespace thaw::pi0_layout_test {
namespace {

const std::string kPaliGemma = "model.paligemma_with_expert.paligemma.";
const std::string kExpert = "model.paligemma_with_expert.gemma_expert.";

struct Count {
  std::int64_t tensors = 0;
  std::int64_t elements = 0;
};

Count count(const ModelLayout& layout, const std::function<bool(const ParameterInfo&)>& which) {
  Count total;
  for (const ParameterInfo& parameter : layout.parameters) {
    if (!which(parameter)) continue;
    ++total.tensors;
    total.elements += parameter.numel();
  }
  return total;
}

bool trains(const ParameterInfo& parameter) { return parameter.trainable_by_default; }
bool any(const ParameterInfo&) { return true; }

Pi0Config published(PiVersion version) {
  Pi0Config config = default_pi0_config(version);
  for (const char* camera : {"a", "b", "c"}) {
    config.input_features.push_back({.name = camera, .type = FeatureType::visual, .shape = {3, 224, 224}});
  }
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {32}}};
  return config;
}

std::set<std::string> dead(const ModelLayout& layout) {
  std::set<std::string> names;
  for (const ParameterInfo& parameter : layout.parameters) names.insert(parameter.name);
  for (const StageInfo& stage : layout.line) {
    for (const std::string& name : stage.parameters) names.erase(name);
  }
  return names;
}

double flops_of(const ModelLayout& layout, const std::string& stage) {
  for (const StageInfo& info : layout.line) {
    if (info.name == stage) return info.flops;
  }
  return -1.0;
}

TEST(PiLayout, PublishedSizesHaveThePublishedNumbersOfParameters) {
  EXPECT_EQ(count(layout_of_named_config("pi0"), any).elements, 3501372176);
  EXPECT_EQ(count(layout_of_named_config("pi0"), any).tensors, 777);
  EXPECT_EQ(count(layout_of_named_config("pi05"), any).elements, 3616757520);
  EXPECT_EQ(count(layout_of_named_config("pi05"), any).tensors, 812);
}

TEST(PiLayout, AFileWithBothTheEmbeddingAndItsHeadHasOneTensorMore) {
  for (const PiVersion version : {PiVersion::pi0, PiVersion::pi05}) {
    Pi0Config config = published(version);
    const Count tied = count(pi0_layout(config), any);
    config.tied_embedding = false;
    const Count both = count(pi0_layout(config), any);
    EXPECT_EQ(both.tensors, tied.tensors + 1);
    EXPECT_EQ(both.elements, tied.elements + 526647296);
  }
}

TEST(PiLayout, FreezingFlagsTrainWhatLeRobotTrains) {
  for (const auto& [version, trained] :
       {std::pair(PiVersion::pi0, std::int64_t{578036768}), std::pair(PiVersion::pi05, std::int64_t{693422112})}) {
    Pi0Config config = published(version);
    EXPECT_EQ(count(pi0_layout(config), trains).elements, count(pi0_layout(config), any).elements);
    config.freeze_vision_encoder = true;
    EXPECT_EQ(count(pi0_layout(config), trains).elements, count(pi0_layout(config), any).elements - 412442352);
    config.train_expert_only = true;
    EXPECT_EQ(count(pi0_layout(config), trains).elements, trained);
  }
}

TEST(PiLayout, TypesOfABfloat16ModelAreFloat32WhereLeRobotKeepsThem) {
  const auto is_float = [](const ParameterInfo& p) { return p.dtype == at::kFloat; };
  // Vision tower, projector, norms of both stacks with their final ones, projections.
  EXPECT_EQ(count(layout_of_named_config("pi0"), is_float).elements,
            412442352 + 2361344 + 18 * 2 * 2048 + 2048 + 18 * 2 * 1024 + 1024 + 3248160);
  const ModelLayout wide = layout_of_named_config("pi05", InitialDtypes::float32);
  EXPECT_EQ(count(wide, is_float).tensors, 812);
}

TEST(PiLayout, StacksHaveThePublishedSizes) {
  for (const auto& [name, block] :
       {std::pair("pi0", std::int64_t{17303552}), std::pair("pi05", std::int64_t{23599104})}) {
    const ModelLayout layout = layout_of_named_config(name);
    const auto in = [](const std::string& stack, std::int64_t index) {
      return [stack, index](const ParameterInfo& p) { return p.stack == stack && p.block == index; };
    };
    EXPECT_EQ(layout.stack("vision").blocks, 27);
    EXPECT_EQ(layout.stack("language").blocks, 18);
    EXPECT_EQ(layout.stack("expert").blocks, 18);
    EXPECT_EQ(count(layout, in("vision", 26)).elements, 15239504);
    EXPECT_EQ(count(layout, in("language", 17)).elements, 110104576);
    EXPECT_EQ(count(layout, in("expert", 0)).elements, block);
    for (const ParameterInfo& parameter : layout.parameters) {
      if (parameter.stack.empty()) continue;
      const std::string prefix = layout.stack(parameter.stack).prefix + "." + std::to_string(parameter.block) + ".";
      EXPECT_EQ(parameter.name.rfind(prefix, 0), 0U) << parameter.name;
    }
  }
}

TEST(PiLayout, ParametersThatNoStageUsesAreTheHeadsTheLanguageNormAndTheLastBlockBeyondItsKeysAndValues) {
  for (const char* name : {"pi0", "pi05"}) {
    const std::string last = kPaliGemma + "model.language_model.layers.17.";
    // q_proj is no part of the list: nothing reads its product, but the optimizer decays it.
    const std::set<std::string> expected{kExpert + "lm_head.weight",
                                         kPaliGemma + "model.language_model.norm.weight",
                                         last + "self_attn.o_proj.weight",
                                         last + "mlp.gate_proj.weight",
                                         last + "mlp.up_proj.weight",
                                         last + "mlp.down_proj.weight",
                                         last + "post_attention_layernorm.weight"};
    EXPECT_EQ(dead(layout_of_named_config(name)), expected) << name;
  }
  Pi0Config both = published(PiVersion::pi0);
  both.tied_embedding = false;
  EXPECT_TRUE(dead(pi0_layout(both)).contains(kPaliGemma + "lm_head.weight"));
}

TEST(PiLayout, TheTokenEmbeddingIsAnEmbeddingWhateverItIsCalled) {
  Pi0Config config = published(PiVersion::pi0);
  const auto is_embedding = [](const ParameterInfo& p) {
    return std::find(p.groups.begin(), p.groups.end(), "embeddings") != p.groups.end() && p.shape.front() == 257152;
  };
  EXPECT_EQ(count(pi0_layout(config), is_embedding).tensors, 1);
  config.tied_embedding = false;
  const ModelLayout both = pi0_layout(config);
  EXPECT_EQ(count(both, is_embedding).tensors, 1);
  EXPECT_TRUE(is_embedding(both.parameter(kPaliGemma + "model.language_model.embed_tokens.weight")));
}

TEST(PiLayout, OperationsOfThePublishedSizesAreThoseWorkedOutByHand) {
  // 3 cameras of 256 patches; 816 rows of the prefix in pi0, 968 in pi0.5; 50 actions.
  const ModelLayout pi0 = layout_of_named_config("pi0");
  EXPECT_EQ(flops_of(pi0, "vision.embed"), 2.0 * 768 * 3 * 14 * 14 * 1152);
  EXPECT_EQ(flops_of(pi0, "vision.0"), 2.0 * 768 * (4.0 * 1152 * 1152 + 2.0 * 1152 * 4304) + 4.0 * 768 * 256 * 1152);
  EXPECT_EQ(flops_of(pi0, "projector"), 2.0 * 768 * 1152 * 2048);
  EXPECT_EQ(flops_of(pi0, "language.0"),
            2.0 * 816 * (2.0 * 2048 * 2048 + 2.0 * 2048 * 256 + 3.0 * 2048 * 16384) + 4.0 * 816 * 816 * 2048);
  EXPECT_EQ(flops_of(pi0, "language.17"), 2.0 * 816 * 2.0 * 2048 * 256);
  EXPECT_EQ(flops_of(pi0, "state.17"), 2.0 * 2.0 * 1024 * 256);
  EXPECT_EQ(flops_of(pi0, "suffix.embed"), 2.0 * 50 * (32.0 * 1024 + 2048.0 * 1024 + 1024.0 * 1024));
  EXPECT_EQ(flops_of(pi0, "suffix.3"),
            2.0 * 50 * (2.0 * 1024 * 2048 + 2.0 * 1024 * 256 + 3.0 * 1024 * 4096) + 4.0 * 50 * 867 * 2048);
  const ModelLayout pi05 = layout_of_named_config("pi05");
  EXPECT_EQ(flops_of(pi05, "suffix.embed"), 2.0 * 50 * 32 * 1024 + 2.0 * 2 * 1024 * 1024);
  EXPECT_EQ(flops_of(pi05, "suffix.3"), 2.0 * 50 * (2.0 * 1024 * 2048 + 2.0 * 1024 * 256 + 3.0 * 1024 * 4096) +
                                            4.0 * 50 * 1018 * 2048 + 2.0 * 2 * 3 * 1024 * 1024);
}

TEST(PiLayout, WhatLivesAtACutHasTheSizesWorkedOutByHand) {
  // All prefix blocks done: keys and values of 18 blocks and the rows' mask (and the state's row in pi0).
  const ModelLayout layout = layout_of_named_config("pi0");
  std::size_t cut = 0;
  while (layout.line[cut].name != "language.17") ++cut;
  std::int64_t floats = 0;
  for (const std::string& key : live_keys(layout.line, cut + 1, layout.image_inputs)) {
    const auto info = std::find_if(layout.keys.begin(), layout.keys.end(),
                                   [&key](const KeyInfo& candidate) { return candidate.name == key; });
    ASSERT_NE(info, layout.keys.end()) << key;
    if (info->dtype == at::kFloat) floats += info->elements;
  }
  EXPECT_EQ(floats, 7520256);
}

TEST(PiLayout, CutsAreTheTowersTheRowsAndTheKeysAndValues) {
  const auto cuts = [](const std::string& type) {
    std::vector<std::string> found;
    for (const StageInfo& stage : layout_of_named_config(type + "_tiny").line) {
      if (!stage.cut.empty()) found.push_back(stage.name + " " + stage.cut);
    }
    return found;
  };
  const std::vector<std::string> prefix{"vision.post vision", "projector vision",  "prefix.embed hidden",
                                        "language.0 hidden",  "language.1 hidden", "language.2 hidden",
                                        "language.3 kv"};
  EXPECT_EQ(cuts("pi05"), prefix);
  std::vector<std::string> with_state = prefix;
  with_state.emplace_back("state.3 kv");
  EXPECT_EQ(cuts("pi0"), with_state);
}

TEST(PiLayout, EveryKeyThatAStageReadsWasWrittenBeforeOrIsAnInputAndHasASize) {
  for (const char* name : {"pi0", "pi05"}) {
    const ModelLayout layout = layout_of_named_config(name);
    std::set<std::string> known{"pixels", "camera_mask", "tokens", "token_mask", "noisy_actions", "time"};
    if (layout.type == "pi0") known.insert("state");
    for (const StageInfo& stage : layout.line) {
      for (const std::string& key : stage.reads) EXPECT_TRUE(known.contains(key)) << stage.name << " reads " << key;
      known.insert(stage.writes.begin(), stage.writes.end());
    }
    EXPECT_TRUE(known.contains(layout.output_key));
    std::set<std::string> sized;
    for (const KeyInfo& key : layout.keys) sized.insert(key.name);
    EXPECT_EQ(sized, known);
  }
}

TEST(PiLayout, SizesOfKeysAreThoseOfTheTensors) {
  for (const std::string type : {"pi0", "pi05"}) {
    InitOptions options = tiny::pi_options(type);
    const auto policy = init_policy(options);
    const std::int64_t text = type == "pi0" ? 24 : 64;
    Batch batch = tiny::pi_batch(2);
    batch.tensors["observation.language.tokens"] = at::ones({2, text}, at::kLong);
    batch.tensors["observation.language.attention_mask"] = at::ones({2, text}, at::kBool);
    constexpr std::int64_t kDraws = 3;
    const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0, kDraws);
    PrefixState state = policy->begin(batch);
    policy->add_draw(state, batch, draw);
    run_stages(policy->line(), 0, policy->line().size(), state);
    for (const KeyInfo& key : policy->layout().keys) {
      const at::Tensor& tensor = state.at(key.name);
      if (key.name == "draw.mask") continue;  // grows with the square of the draws
      EXPECT_EQ(tensor.numel(), 2 * key.elements * (key.per_draw ? kDraws : 1)) << key.name;
      EXPECT_EQ(tensor.scalar_type(), key.dtype) << key.name;
      EXPECT_EQ(tensor.size(-1), key.name == "time" ? kDraws : key.width) << key.name;
    }
  }
}

}  // namespace
}  // namespace thaw::pi0_layout_test
