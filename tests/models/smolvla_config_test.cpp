// config.json and vlm_config.json: reading, checking, writing back.
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/models/smolvla/config.h"

namespace thaw::smolvla_config_test {
namespace {

const std::filesystem::path kCheckpoint =
    std::filesystem::path(thaw::test::source_dir()) / "tests/golden/checkpoint_smolvla/pretrained_model";

Json minimal() {
  return parse_json(R"({"type": "smolvla",
    "input_features": {"observation.images.b": {"type": "VISUAL", "shape": [3, 480, 640]},
                       "observation.images.a": {"type": "VISUAL", "shape": [3, 480, 640]},
                       "observation.state": {"type": "STATE", "shape": [6]}},
    "output_features": {"action": {"type": "ACTION", "shape": [6]}}})",
                    "test");
}

SmolVLAConfig parsed(const Json& json) { return parse_smolvla_config(json, Json(), "config.json"); }

std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

struct BadField {
  const char* field;
  Json value;
  const char* said;
};

TEST(SmolVLAConfig, DefaultsAreLeRobots) {
  const SmolVLAConfig config = parsed(minimal());
  EXPECT_EQ(config.chunk_size, 50);
  EXPECT_EQ(config.language_layers(), 16);
  EXPECT_EQ(config.expert_layers(), 16);
  EXPECT_EQ(config.expert_hidden(), 720);
  EXPECT_EQ(config.expert_intermediate(), 2048);
  EXPECT_EQ(config.image_tokens(), 64);
  EXPECT_EQ(config.training.learning_rate, 1e-4);
  EXPECT_EQ(config.training.decay_steps, 30000);
}

TEST(SmolVLAConfig, CamerasKeepTheOrderOfTheFile) {
  EXPECT_THAT(parsed(minimal()).cameras(), testing::ElementsAre("observation.images.b", "observation.images.a"));
}

TEST(SmolVLAConfig, EmptyCamerasBecomeFeaturesBehindTheOthers) {
  Json json = minimal();
  json["empty_cameras"] = 2;
  const SmolVLAConfig config = parsed(json);
  EXPECT_THAT(config.cameras(),
              testing::ElementsAre("observation.images.b", "observation.images.a", "observation.images.empty_camera_0",
                                   "observation.images.empty_camera_1"));
  EXPECT_EQ(config.input_features.back().shape, (std::vector<std::int64_t>{3, 480, 640}));
}

TEST(SmolVLAConfig, ImageSizeIsWidthThenHeight) {
  Json json = minimal();
  json["resize_imgs_with_padding"] = {512, 520};
  EXPECT_EQ(parsed(json).image_width, 512);
  EXPECT_EQ(parsed(json).image_height, 520);
}

TEST(SmolVLAConfig, ExpertAttendsByTheLanguageLayerAndProjectsByTheExpertLayer) {
  SmolVLAConfig config = parsed(minimal());
  config.vlm.text.layers = 6;
  config.num_vlm_layers = 6;
  config.num_expert_layers = 2;
  EXPECT_EQ(config.expert_stride(), 3);
  EXPECT_EQ(config.last_language_layer(), 3);
  EXPECT_TRUE(config.self_attention_at(0));
  EXPECT_FALSE(config.self_attention_at(3));
  EXPECT_TRUE(config.cross_projection(1));
  config.attention_mode = "self_attn";
  EXPECT_TRUE(config.self_attention_at(3));
  EXPECT_FALSE(config.cross_projection(1));
}

TEST(SmolVLAConfig, EveryBadFieldIsRefusedByName) {
  const std::vector<BadField> cases{
      {"chunk_size", 0, "chunk_size"},
      {"n_action_steps", 51, "n_action_steps"},
      {"max_action_dim", 5, "output_features.action.shape"},
      {"max_state_dim", 5, "input_features.observation.state.shape"},
      {"resize_imgs_with_padding", Json::array({512, 256}), "square image"},
      {"resize_imgs_with_padding", Json::array({500, 500}), "scale_factor"},
      {"resize_imgs_with_padding", Json::array({512}), "[width, height]"},
      {"num_expert_layers", 5, "num_expert_layers"},
      {"num_expert_layers", 8, "self_attn_every_n_layers"},
      {"expert_width_multiplier", -1.0, "expert_width_multiplier"},
      {"attention_mode", "other", "attention_mode"},
      {"pad_language_to", "shortest", "pad_language_to"},
      {"num_steps", 0, "num_steps"},
      {"min_period", 0.0, "min_period"},
      {"adapt_to_pi_aloha", true, "14 values"},
      {"use_delta_joint_actions_aloha", true, "use_delta_joint_actions_aloha"},
      {"chunk_size", "fifty", "chunk_size"},
      {"output_features", Json::object(), "a feature named 'action'"},
      {"normalization_mapping", {{"STATE", "MEDIAN"}}, "MEDIAN"},
      {"empty_cameras", 1000, "empty_cameras"},
  };
  for (const BadField& bad : cases) {
    Json json = minimal();
    json[bad.field] = bad.value;
    EXPECT_THAT(message_of([&json] { static_cast<void>(parsed(json)); }), testing::HasSubstr(bad.said)) << bad.field;
  }
}

TEST(SmolVLAConfig, SizesOfTheLanguageModelComeFromItsOwnFile) {
  const SmolVLAConfig config =
      parse_smolvla_config(read_json(kCheckpoint / "config.json"), read_json(kCheckpoint / "vlm_config.json"), "x");
  EXPECT_EQ(config.vlm.text.head_dim, 16);  // not hidden / heads
  EXPECT_EQ(config.vlm.text.hidden_size, 40);
  EXPECT_EQ(config.vlm.vision.patch_size, 4);
  EXPECT_EQ(config.language_layers(), 4);
  EXPECT_EQ(config.expert_hidden(), 30);
  EXPECT_EQ(config.expert_intermediate(), 256);
}

TEST(SmolVLAConfig, WhatWasReadIsWrittenBackInItsOrderWithUnknownFields) {
  Json json = minimal();
  json["a_field_of_tomorrow"] = {1, 2};
  EXPECT_EQ(smolvla_config_json(parsed(json)).dump(), json.dump());
  const Json real = read_json(kCheckpoint / "config.json");
  const Json vlm = read_json(kCheckpoint / "vlm_config.json");
  const SmolVLAConfig config = parse_smolvla_config(real, vlm, "x");
  EXPECT_EQ(smolvla_config_json(config).dump(4), real.dump(4));
  EXPECT_EQ(smolvla_vlm_config_json(config).dump(), vlm.dump());
}

TEST(SmolVLAConfig, AConfigurationMadeInCodeIsWrittenWithLeRobotsFieldsInLeRobotsOrder) {
  SmolVLAConfig config;
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {6}}};
  const Json written = smolvla_config_json(config);
  std::vector<std::string> fields;
  for (const auto& field : written.items()) fields.push_back(field.key());
  std::vector<std::string> expected;
  const Json reference = read_json(kCheckpoint / "config.json");
  for (const auto& field : reference.items()) expected.push_back(field.key());
  EXPECT_EQ(fields, expected);
  EXPECT_TRUE(smolvla_vlm_config_json(config).is_null()) << "published sizes need no file";
  const SmolVLAConfig again = parse_smolvla_config(written, Json(), "written");
  EXPECT_EQ(smolvla_config_json(again).dump(), written.dump());
}

TEST(SmolVLAConfig, OtherSizesAreWrittenAndReadBack) {
  SmolVLAConfig config;
  config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {6}}};
  config.vlm.text.vocabulary = 1000;
  const Json vlm = smolvla_vlm_config_json(config);
  ASSERT_FALSE(vlm.is_null());
  const SmolVLAConfig again = parse_smolvla_config(smolvla_config_json(config), vlm, "written");
  EXPECT_EQ(again.vlm.text.vocabulary, 1000);
  EXPECT_EQ(smolvla_vlm_config_json(again).dump(), vlm.dump());
}

}  // namespace
}  // namespace thaw::smolvla_config_test
