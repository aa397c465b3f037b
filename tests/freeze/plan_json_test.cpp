// plan.json: exact round trip, and files nobody vouches for.
#include "layouts.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::plan_json_test {
namespace {

using test::message_of;
using test::MiniVla;
using testing::AllOf;
using testing::HasSubstr;

FreezePlan mini_plan() {
  FreezePlan plan = LayerFreezePolicy::parse("vision=0,language=2,expert=all,freeze:@biases").resolve(MiniVla().layout);
  plan.parameters[0].digest = std::string(64, 'a');
  plan.buffers.push_back({"model.vision.mean", std::string(64, '0')});
  return plan;
}

TEST(PlanJson, EveryFieldComesBack) {
  const FreezePlan plan = mini_plan();
  const std::string text = plan.to_json().dump(1);
  const FreezePlan back = FreezePlan::from_json(parse_json(text, "plan.json"), "plan.json");
  EXPECT_EQ(back.to_json().dump(1), text);
  EXPECT_EQ(back.model_type, plan.model_type);
  EXPECT_EQ(back.rules, plan.rules);
  EXPECT_EQ(back.digest(), plan.digest());
  EXPECT_EQ(back.boundary, plan.boundary);
  EXPECT_EQ(back.boundary_parameter, plan.boundary_parameter);
  EXPECT_EQ(back.backward_causes, plan.backward_causes);
  EXPECT_EQ(back.summary(), plan.summary());
  ASSERT_EQ(back.parameters.size(), plan.parameters.size());
  for (std::size_t i = 0; i < plan.parameters.size(); ++i) {
    EXPECT_EQ(back.parameters[i].name, plan.parameters[i].name);
    EXPECT_EQ(back.parameters[i].shape, plan.parameters[i].shape);
    EXPECT_EQ(back.parameters[i].dtype, plan.parameters[i].dtype);
    EXPECT_EQ(back.parameters[i].stack, plan.parameters[i].stack);
    EXPECT_EQ(back.parameters[i].block, plan.parameters[i].block);
    EXPECT_EQ(back.parameters[i].parameter_class, plan.parameters[i].parameter_class);
    EXPECT_EQ(back.parameters[i].decided_by, plan.parameters[i].decided_by);
    EXPECT_EQ(back.parameters[i].digest, plan.parameters[i].digest);
  }
  EXPECT_EQ(back.buffers[0].digest, plan.buffers[0].digest);
}

TEST(PlanJson, FlopsComeBackToTheLastBit) {
  FreezePlan plan = mini_plan();
  plan.line[0].forward_flops = 1.0 / 3.0 * 1e12;
  const FreezePlan back = FreezePlan::from_json(parse_json(plan.to_json().dump(), "p"), "p");
  EXPECT_EQ(back.line[0].forward_flops, plan.line[0].forward_flops);
}

TEST(PlanJson, EqualFreezesHaveEqualDigestsWhateverTheWording) {
  const ModelLayout layout = MiniVla().layout;
  const auto digest = [&layout](const char* rules) { return LayerFreezePolicy::parse(rules).resolve(layout).digest(); };
  EXPECT_EQ(digest("language=2"), digest("language=[2,3]"));
  EXPECT_NE(digest("language=2"), digest("language=1"));
  ModelLayout wider = layout;
  wider.parameters[0].shape[0] += 1;
  EXPECT_NE(LayerFreezePolicy{}.resolve(wider).digest(), digest(""));
}

/// The message for plan.json with `spoil` applied.
template <class Spoil>
std::string error_after(Spoil spoil) {
  Json json = mini_plan().to_json();
  spoil(json);
  return message_of<FormatError>([&json] { (void)FreezePlan::from_json(json, "plan.json"); });
}

TEST(PlanJson, ASpoiltFileIsRefusedNamingTheField) {
  using Spoil = std::function<void(Json&)>;
  const std::vector<std::pair<Spoil, std::string>> cases{
      {[](Json& j) { j = Json::array(); }, "plan.json: expected an object"},
      {[](Json& j) { j["schema_version"] = 2; }, "schema_version: expected 1, the version this thaw reads, found 2"},
      {[](Json& j) { j.erase("schema_version"); }, "schema_version"},
      {[](Json& j) { j["schema_version"] = "1"; }, "schema_version"},
      {[](Json& j) { j["rules"] = 3; }, "rules"},
      {[](Json& j) { j.erase("model_type"); }, "model_type"},
      {[](Json& j) { j["boundary"] = 3; }, "boundary: expected an object"},
      {[](Json& j) { j["boundary"]["stage"] = -1; }, "stage: expected 0 or more, found -1"},
      {[](Json& j) { j["boundary"]["stage"] = 99; }, "boundary.stage: expected below"},
      {[](Json& j) { j["boundary"]["stage"] = 1; }, "line: expected grad from the boundary on"},
      {[](Json& j) { j["boundary"]["parameter"] = "model.lm_head.weight"; },
       "boundary.parameter: expected a trainable"},
      {[](Json& j) { j["line"][0]["backward_walks"] = true; }, "line: expected grad from the boundary on"},
      {[](Json& j) { j["line"] = Json::array(); }, "boundary.stage: expected below 0"},
      {[](Json& j) { j["line"][1]["forward_flops"] = -1.0; }, "line[1]: forward_flops: expected a finite number"},
      {[](Json& j) { j["line"][1]["backward_flops"] = "x"; }, "line[1]"},
      {[](Json& j) { j["stacks"][0]["blocks"] = 1.5; }, "stacks[0]"},
      {[](Json& j) {
         j["stacks"][1]["trainable_blocks"] = {2, 1};
       },
       "stacks[1]: trainable_blocks: expected rising"},
      {[](Json& j) { j["stacks"][1]["dead_blocks"] = {4}; },
       "stacks[1]: dead_blocks: expected rising block numbers below 4"},
      {[](Json& j) { j["stacks"][1]["blocks"] = 0; }, "stacks[1]"},
      {[](Json& j) { j["parameters"] = Json::object(); }, "parameters: expected an array"},
      {[](Json& j) { j["parameters"][0] = 7; }, "parameters[0]: expected an object, found number"},
      {[](Json& j) { j["parameters"][0]["name"] = ""; }, "parameters[0]: name: expected a name"},
      {[](Json& j) { j["parameters"][0]["shape"] = {-1}; },
       "parameters[0]: shape: expected sizes of 0 or more, found -1"},
      {[](Json& j) {
         j["parameters"][0]["shape"] = {1LL << 40, 1LL << 40};
       },
       "a product of sizes that overflows"},
      {[](Json& j) {
         j["parameters"][0]["shape"] = j["parameters"][1]["shape"] = {1LL << 29, 1LL << 29};
       },
       "parameters: expected a model that can exist, found a sum of sizes that overflows"},
      {[](Json& j) { j["parameters"][0]["shape"] = std::vector<int>(9, 1); },
       "shape: expected at most 8 sizes, found 9"},
      {[](Json& j) { j["parameters"][0]["dtype"] = "float"; },
       "dtype: expected a safetensors dtype such as F32, found 'float'"},
      {[](Json& j) { j["parameters"][0]["class"] = "thawed"; },
       "class: expected trainable, frozen or dead, found 'thawed'"},
      {[](Json& j) { j["parameters"][0]["digest"] = "AB"; }, "digest: expected 64 lower-case hex digits"},
      {[](Json& j) { j["parameters"][1]["name"] = j["parameters"][0]["name"]; }, "' twice"},
      {[](Json& j) { j["parameters"][1]["block"] = 2; }, "in block 2 of 'vision'"},
      {[](Json& j) { j["parameters"][1].erase("block"); }, "parameters[1]"},
      {[](Json& j) { j["parameters"][1]["stack"] = "ghost"; }, "of 'ghost'"},
      {[](Json& j) { j["parameters"][0]["same_as"] = "ghost"; }, "'ghost' to be an earlier name of the same class"},
      {[](Json& j) { j["parameters"][0]["same_as"] = j["parameters"][0]["name"]; }, "to be an earlier name"},
      {[](Json& j) { j["parameters"][0]["class"] = "trainable"; }, "plan.json: digest: expected"},
      {[](Json& j) { j["parameters"] = Json::array(); }, "parameters: expected a trainable one, found none"},
      {[](Json& j) { j["buffers"][0]["digest"] = ""; }, "buffers[0]: digest"},
      {[](Json& j) { j["digest"] = std::string(64, 'f'); }, "digest: expected"},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_THAT(error_after(cases[i].first), AllOf(HasSubstr("plan.json"), HasSubstr(cases[i].second)));
  }
}

/// Replaces a random node by a random value.
void mutate(Json& json, std::mt19937& random) {
  Json* node = &json;
  while (node->is_structured() && !node->empty() && random() % 8 != 0) {
    node = &*std::next(node->begin(), static_cast<std::ptrdiff_t>(random() % node->size()));
  }
  const Json values[] = {nullptr,
                         true,
                         -1,
                         0,
                         3,
                         1LL << 62,
                         0.5,
                         1e300,
                         "",
                         "x",
                         "trainable",
                         "dead",
                         "F32",
                         Json::array(),
                         Json::object(),
                         Json::array({1, 2}),
                         Json::array({"a"})};
  *node = values[random() % std::size(values)];
}

TEST(PlanJson, AMutatedFileIsRefusedOrIsAWholePlan) {
  std::mt19937 random(23);
  const Json whole = mini_plan().to_json();
  int refused = 0;
  for (int round = 0; round < 1500; ++round) {
    Json json = whole;
    for (std::uint64_t i = 1 + random() % 2; i > 0; --i) mutate(json, random);
    try {
      const FreezePlan plan = FreezePlan::from_json(json, "plan.json");
      EXPECT_EQ(FreezePlan::from_json(plan.to_json(), "again").to_json(), plan.to_json()) << json.dump();
      EXPECT_FALSE(plan.summary().empty());
    } catch (const FormatError& error) {
      EXPECT_THAT(error.what(), HasSubstr("plan.json"));
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(PlanJson, FieldsOfALaterWriterAreIgnored) {
  Json json = mini_plan().to_json();
  json["note"] = "x";
  json["parameters"][0]["colour"] = 3;
  EXPECT_EQ(FreezePlan::from_json(json, "p").digest(), mini_plan().digest());
}

TEST(PlanJson, EveryMissingFieldIsAnErrorNotADefault) {
  const Json whole = mini_plan().to_json();
  for (const auto& item : whole.items()) {
    const std::string key = item.key();
    EXPECT_THAT(error_after([&key](Json& json) { json.erase(key); }), HasSubstr(key)) << key;
  }
}

}  // namespace
}  // namespace thaw::plan_json_test
