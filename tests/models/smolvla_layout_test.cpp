// The table of tensors and the line, from the configuration alone.
#include <set>

#include "thaw/core/error.h"
#include "thaw/models/registry.h"
#include "thaw/models/smolvla/layout.h"

namespace thaw::smolvla_layout_test {
namespace {

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

SmolVLAConfig published() {
  SmolVLAConfig config;
  config.load_vlm_weights = true;
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {6}}};
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

TEST(SmolVLALayout, PublishedSizeHasThePublishedNumberOfParameters) {
  const ModelLayout layout = layout_of_named_config("smolvla");
  EXPECT_EQ(count(layout, any).tensors, 500);
  EXPECT_EQ(count(layout, any).elements, 450046176);
  EXPECT_EQ(count(layout, trains).elements, 99880992);
  EXPECT_EQ(count(layout, trains).tensors, 155);
}

TEST(SmolVLALayout, FreezingFlagsTrainWhatLeRobotTrains) {
  SmolVLAConfig config = published();
  config.train_expert_only = false;
  EXPECT_EQ(count(smolvla_layout(config), trains).elements, 306471072);
  EXPECT_EQ(count(smolvla_layout(config), trains).tensors, 292);
  config.freeze_vision_encoder = false;
  EXPECT_EQ(count(smolvla_layout(config), trains).elements, 392904096);
  EXPECT_EQ(count(smolvla_layout(config), trains).tensors, 489);
  config = published();
  config.train_state_proj = false;
  EXPECT_EQ(count(smolvla_layout(config), trains).elements, 99880992 - 31680);
}

TEST(SmolVLALayout, PublishedTypesAreFloat32InTheProjectionsAndCrossLayersOnly) {
  const auto is_float = [](const ParameterInfo& p) { return p.dtype == at::kFloat; };
  const ModelLayout layout = layout_of_named_config("smolvla");
  EXPECT_EQ(count(layout, is_float).tensors, 10 + 16);
  EXPECT_EQ(count(layout, is_float).elements, 3273552);
  SmolVLAConfig config = published();
  config.load_vlm_weights = false;  // vision tower, connector and lm_head become float32 too
  EXPECT_EQ(count(smolvla_layout(config), is_float).tensors, 10 + 16 + 199);
  EXPECT_EQ(count(smolvla_layout(config, InitialDtypes::float32), is_float).tensors, 500);
}

TEST(SmolVLALayout, StacksHaveThePublishedSizes) {
  const ModelLayout layout = layout_of_named_config("smolvla");
  const auto in = [](const std::string& stack, std::int64_t block) {
    return [stack, block](const ParameterInfo& p) { return p.stack == stack && (block < 0 || p.block == block); };
  };
  EXPECT_EQ(layout.stack("vision").blocks, 12);
  EXPECT_EQ(layout.stack("language").blocks, 16);
  EXPECT_EQ(layout.stack("expert").blocks, 16);
  EXPECT_EQ(count(layout, in("vision", 11)).elements, 7087872);
  EXPECT_EQ(count(layout, in("language", 15)).elements, 9832320);
  EXPECT_EQ(count(layout, in("expert", 0)).elements, 6268320);
  EXPECT_EQ(count(layout, in("expert", 1)).elements, 6012320);
  EXPECT_EQ(count(layout, in("expert", -1)).elements, 98245120);
  for (const ParameterInfo& parameter : layout.parameters) {
    if (parameter.stack.empty()) continue;
    const std::string prefix = layout.stack(parameter.stack).prefix + "." + std::to_string(parameter.block) + ".";
    EXPECT_EQ(parameter.name.rfind(prefix, 0), 0U) << parameter.name;
  }
}

TEST(SmolVLALayout, GroupsHoldNormsBiasesEmbeddingsAndProjectors) {
  const ModelLayout layout = layout_of_named_config("smolvla");
  const auto in = [](const std::string& group) {
    return [group](const ParameterInfo& p) {
      return std::find(p.groups.begin(), p.groups.end(), group) != p.groups.end();
    };
  };
  EXPECT_EQ(count(layout, in("norms")).tensors, 12 * 4 + 2 + 16 * 2 + 1 + 16 * 2 + 1);
  EXPECT_EQ(count(layout, in("biases")).tensors, 12 * 8 + 2 + 5);
  EXPECT_EQ(count(layout, in("embeddings")).tensors, 4);  // patch weight and bias, positions, tokens
  EXPECT_EQ(count(layout, in("projectors")).tensors, 1 + 10);
}

TEST(SmolVLALayout, ParametersThatNoStageUsesAreTheHeadTheTextNormAndTheLastBlockBeyondItsKeysAndValues) {
  const std::string vlm = "model.vlm_with_expert.vlm.";
  const std::string last = vlm + "model.text_model.layers.15.";
  const std::set<std::string> expected{vlm + "lm_head.weight",           vlm + "model.text_model.norm.weight",
                                       last + "self_attn.q_proj.weight", last + "self_attn.o_proj.weight",
                                       last + "mlp.gate_proj.weight",    last + "mlp.up_proj.weight",
                                       last + "mlp.down_proj.weight",    last + "post_attention_layernorm.weight"};
  EXPECT_EQ(dead(layout_of_named_config("smolvla")), expected);
}

TEST(SmolVLALayout, LanguageBlocksBehindTheLastExpertBlockAreDead) {
  SmolVLAConfig config = published();
  config.num_vlm_layers = 6;
  config.num_expert_layers = 2;
  config.self_attn_every_n_layers = 6;  // expert 0 attends to itself, expert 1 at language block 3 does not
  config.train_expert_only = false;
  const ModelLayout layout = smolvla_layout(config);
  const std::set<std::string> names = dead(layout);
  for (const std::int64_t block : {4, 5}) {
    for (const ParameterInfo& parameter : layout.parameters) {
      if (parameter.stack != "language" || parameter.block != block) continue;
      EXPECT_TRUE(names.contains(parameter.name)) << parameter.name;
      EXPECT_FALSE(parameter.trainable_by_default) << parameter.name;
    }
  }
  EXPECT_EQ(names.size(), 2U + 6U + 2U * 9U);
  EXPECT_TRUE(
      layout.parameter("model.vlm_with_expert.vlm.model.text_model.layers.3.mlp.up_proj.weight").trainable_by_default);
}

TEST(SmolVLALayout, OperationsOfThePublishedSizeAreThoseWorkedOutByHand) {
  const ModelLayout layout = layout_of_named_config("smolvla");
  const auto flops = [&layout](const std::string& name) {
    for (const StageInfo& stage : layout.line) {
      if (stage.name == name) return stage.flops;
    }
    return -1.0;
  };
  // 3 cameras of 1024 patches; 240 rows of images and text, one state row, 50 actions.
  EXPECT_EQ(flops("vision.embed"), 2.0 * 3072 * 768 * 768);
  EXPECT_EQ(flops("vision.0"), 2.0 * 3072 * (4.0 * 768 * 768 + 2.0 * 768 * 3072) + 4.0 * 3072 * 1024 * 768);
  EXPECT_EQ(flops("connector"), 2.0 * 192 * 12288 * 960);
  EXPECT_EQ(flops("A.language.0"),
            2.0 * 240 * (2.0 * 960 * 960 + 2.0 * 960 * 320 + 3.0 * 960 * 2560) + 4.0 * 240 * 240 * 960);
  EXPECT_EQ(flops("A.language.15"), 2.0 * 240 * 2.0 * 960 * 320);
  EXPECT_EQ(flops("state"), 2.0 * 32 * 960);
  EXPECT_EQ(flops("B.language.15"), 2.0 * 2.0 * 960 * 320);
  EXPECT_EQ(flops("cross.1"), 2.0 * 241 * 2.0 * 320 * 320);
  EXPECT_EQ(flops("suffix.embed"), 2.0 * 50 * (32.0 * 720 + 1440.0 * 720 + 720.0 * 720));
  EXPECT_EQ(flops("suffix.0"),
            2.0 * 50 * (2.0 * 720 * 960 + 2.0 * 720 * 320 + 3.0 * 720 * 2048) + 4.0 * 50 * 291 * 960);
  EXPECT_EQ(flops("suffix.1"), 2.0 * 50 * (2.0 * 720 * 960 + 3.0 * 720 * 2048) + 4.0 * 50 * 241 * 960);
  EXPECT_EQ(flops("suffix.out"), 2.0 * 50 * 720 * 32);
}

TEST(SmolVLALayout, EveryKeyThatAStageReadsWasWrittenBeforeOrIsAnInput) {
  const ModelLayout layout = layout_of_named_config("smolvla");
  std::set<std::string> known{"pixels", "camera_mask", "tokens", "token_mask", "state", "noisy_actions", "time"};
  for (const StageInfo& stage : layout.line) {
    for (const std::string& key : stage.reads) EXPECT_TRUE(known.contains(key)) << stage.name << " reads " << key;
    known.insert(stage.writes.begin(), stage.writes.end());
  }
  EXPECT_TRUE(known.contains(layout.output_key));
}

TEST(SmolVLALayout, AnUnknownConfigurationIsRefusedWithTheNearestNames) {
  try {
    static_cast<void>(layout_of_named_config("smolvla_tyni"));
    FAIL() << "nothing was thrown";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("smolvla_tyni"));
    EXPECT_THAT(error.what(), testing::HasSubstr("'smolvla_tiny'"));
  }
}

}  // namespace
}  // namespace thaw::smolvla_layout_test
