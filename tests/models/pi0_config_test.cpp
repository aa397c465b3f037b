// Reading, checking and writing the configurations of pi0 and pi0.5.
#include "support/golden.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/models/pi0/config.h"

namespace thaw::pi0_config_test {
namespace {

namespace fs = std::filesystem;

Json minimal(const std::string& type = "pi0") {
  return Json{{"type", type},
              {"input_features",
               {{"observation.images.b", {{"type", "VISUAL"}, {"shape", {3, 224, 224}}}},
                {"observation.images.a", {{"type", "VISUAL"}, {"shape", {3, 480, 640}}}},
                {"observation.state", {{"type", "STATE"}, {"shape", {7}}}}}},
              {"output_features", {{"action", {{"type", "ACTION"}, {"shape", {6}}}}}}};
}

Pi0Config parsed(const Json& json) { return parse_pi0_config(json, Json(), "config.json"); }

std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(PiConfig, DefaultsAreLeRobotsForEachVersion) {
  const Pi0Config pi0 = parsed(minimal("pi0"));
  const Pi0Config pi05 = parsed(minimal("pi05"));
  EXPECT_EQ(pi0.tokenizer_max_length, 48);
  EXPECT_EQ(pi05.tokenizer_max_length, 200);
  EXPECT_EQ(pi0.normalization.at(1).mode, "MEAN_STD");
  EXPECT_EQ(pi05.normalization.at(2).mode, "QUANTILES");
  EXPECT_EQ(pi0.state_rows(), 1);
  EXPECT_EQ(pi05.state_rows(), 0);
  for (const Pi0Config& config : {pi0, pi05}) {
    EXPECT_EQ(config.training.learning_rate, 2.5e-5);
    EXPECT_EQ(config.training.weight_decay, 0.01);
    EXPECT_EQ(config.training.grad_clip_norm, 1.0);
    EXPECT_FALSE(config.train_expert_only || config.freeze_vision_encoder);
    EXPECT_EQ(config.patches(), 256);
    EXPECT_THAT(config.cameras(), testing::ElementsAre("observation.images.b", "observation.images.a"));
  }
}

TEST(PiConfig, AMissingStateOrActionHasTheGreatestWidthAndEmptyCamerasAreAdded) {
  Json json = minimal();
  json["input_features"].erase("observation.state");
  json["output_features"] = Json::object();
  json["empty_cameras"] = 2;
  json["max_state_dim"] = 20;
  const Pi0Config config = parsed(json);
  EXPECT_EQ(config.state_dim(), 20);
  EXPECT_EQ(config.action_dim(), 32);
  EXPECT_EQ(config.cameras().size(), 4U);
  EXPECT_EQ(config.input_features.at(3).shape, (std::vector<std::int64_t>{3, 224, 224}));
}

struct BadField {
  std::string field;
  Json value;
  std::string said;
};

TEST(PiConfig, EveryBadFieldIsRefusedByName) {
  const std::vector<BadField> cases{
      {"chunk_size", 0, "chunk_size"},
      {"n_action_steps", 51, "n_action_steps"},
      {"max_action_dim", 5, "output_features.action.shape"},
      {"max_state_dim", 5, "input_features.observation.state.shape"},
      {"image_resolution", Json::array({224, 112}), "a square image"},
      {"image_resolution", Json::array({224}), "[height, width]"},
      {"image_resolution", Json::array({7, 7}), "image_resolution"},
      {"num_inference_steps", 0, "num_inference_steps"},
      {"min_period", 0.0, "min_period"},
      {"time_sampling_beta_alpha", -1.0, "time_sampling_beta_alpha"},
      {"time_sampling_beta_beta", 2.0, "time_sampling_beta_beta"},
      {"time_sampling_offset", 0.5, "time_sampling_scale"},
      {"dtype", "float16", "dtype"},
      {"paligemma_variant", "gemma_7b", "gemma_7b"},
      {"action_expert_variant", 3, "action_expert_variant"},
      {"adapt_to_pi_aloha", true, "14 values"},
      {"normalization_mapping", {{"STATE", "MEDIAN"}}, "MEDIAN"},
      {"empty_cameras", 1000, "empty_cameras"},
      {"use_visual_memory", true, "use_visual_memory"},
      {"rtc_training_max_delay", 3, "rtc_training_max_delay"},
  };
  for (const BadField& bad : cases) {
    Json json = minimal();
    json[bad.field] = bad.value;
    EXPECT_THAT(message_of([&json] { static_cast<void>(parsed(json)); }), testing::HasSubstr(bad.said)) << bad.field;
  }
}

TEST(PiConfig, AStateWiderThanTheModelIsRefusedInPi0AndIsTextInPi05) {
  Json json = minimal("pi0");
  json["input_features"]["observation.state"]["shape"] = {40};
  EXPECT_THAT(
      message_of([&json] { static_cast<void>(parsed(json)); }),
      testing::AllOf(testing::HasSubstr("observation.state"), testing::HasSubstr("0..32"), testing::HasSubstr("40")));
  json["type"] = "pi05";
  EXPECT_EQ(parsed(json).state_dim(), 40);
}

TEST(PiConfig, SizesOfTheTwoStacksMustMeetBlockByBlock) {
  const Json json = minimal();
  for (const auto& [field, value] : {std::pair("depth", 4), std::pair("num_heads", 4), std::pair("head_dim", 64)}) {
    const Json vlm{{"expert", {{field, value}}}};
    EXPECT_THAT(message_of([&] { static_cast<void>(parse_pi0_config(json, vlm, "config.json")); }),
                testing::HasSubstr(std::string("expert.") + field));
  }
  const Json vlm{{"paligemma", {{"num_heads", 7}, {"num_kv_heads", 2}}}};
  EXPECT_THAT(message_of([&] { static_cast<void>(parse_pi0_config(json, vlm, "config.json")); }),
              testing::HasSubstr("num_kv_heads"));
}

TEST(PiConfig, AlohaIsPi0s) {
  Json json = minimal("pi05");
  json["input_features"]["observation.state"]["shape"] = {14};
  json["output_features"]["action"]["shape"] = {14};
  json["adapt_to_pi_aloha"] = true;
  EXPECT_THAT(message_of([&json] { static_cast<void>(parsed(json)); }), testing::HasSubstr("in the prompt"));
  json["type"] = "pi0";
  EXPECT_TRUE(parsed(json).adapt_to_pi_aloha);
}

TEST(PiConfig, WhatWasReadIsWrittenBackInItsOrderWithUnknownFields) {
  Json json = minimal();
  json["a_field_of_tomorrow"] = {1, 2};
  EXPECT_EQ(pi0_config_json(parsed(json)).dump(), json.dump());
  for (const char* type : {"pi0", "pi05"}) {
    const fs::path folder =
        fs::path(thaw::test::source_dir()) / "tests/golden" / (std::string("checkpoint_") + type) / "pretrained_model";
    const Json real = read_json(folder / "config.json");
    const Json vlm = read_json(folder / "vlm_config.json");
    const Pi0Config config = parse_pi0_config(real, vlm, "x");
    EXPECT_EQ(pi0_config_json(config).dump(4), real.dump(4));
    EXPECT_EQ(pi0_vlm_config_json(config).dump(), vlm.dump());
  }
}

TEST(PiConfig, AConfigurationMadeInCodeIsWrittenWithLeRobotsFieldsInLeRobotsOrder) {
  for (const auto& [type, version] : {std::pair("pi0", PiVersion::pi0), std::pair("pi05", PiVersion::pi05)}) {
    Pi0Config config = default_pi0_config(version);
    config.input_features = {{.name = "observation.state", .type = FeatureType::state, .shape = {6}}};
    config.output_features = {{.name = "action", .type = FeatureType::action, .shape = {6}}};
    const Json written = pi0_config_json(config);
    std::vector<std::string> fields;
    for (const auto& field : written.items()) fields.push_back(field.key());
    std::vector<std::string> expected;
    const Json reference =
        read_json(fs::path(thaw::test::source_dir()) / "tests/golden" / (std::string(type) + "_tiny") / "config.json");
    for (const auto& field : reference.items()) expected.push_back(field.key());
    EXPECT_EQ(fields, expected);
    EXPECT_TRUE(pi0_vlm_config_json(config).is_null()) << "sizes of the variants need no file";
    EXPECT_EQ(pi0_config_json(parsed(written)).dump(), written.dump());
    config.sizes.vocabulary = 1000;
    const Json vlm = pi0_vlm_config_json(config);
    ASSERT_FALSE(vlm.is_null());
    EXPECT_EQ(parse_pi0_config(written, vlm, "written").sizes.vocabulary, 1000);
  }
}

}  // namespace
}  // namespace thaw::pi0_config_test
