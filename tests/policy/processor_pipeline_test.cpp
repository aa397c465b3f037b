// Files of a pipeline: read, refused, changed, written back.
#include <nlohmann/json.hpp>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "policy/small_tokenizer.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/policy/processor.h"
#include "thaw/policy/processor_steps.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::processor_pipeline_test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using test::message_of;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kPre = "policy_preprocessor";
constexpr const char* kPost = "policy_postprocessor";

fs::path golden() {
  return fs::path(thaw::test::source_dir()) / "tests" / "golden" / "checkpoint_smolvla" / "pretrained_model";
}

ProcessorPipeline load_golden(const char* name) { return ProcessorPipeline::load(golden(), name, {}); }

/// A preprocessor file of one step.
std::string one_step(const Json& step) { return Json{{"name", kPre}, {"steps", Json::array({step})}}.dump(); }

ProcessorPipeline load_step(const TemporaryFolder& folder, const Json& step) {
  folder.write("policy_preprocessor.json", one_step(step));
  return ProcessorPipeline::load(folder.path(), kPre, {.checkpoint = folder.path(), .override_folder = {}});
}

std::string refusal(const Json& step) {
  const TemporaryFolder folder;
  return message_of<FormatError>([&] { static_cast<void>(load_step(folder, step)); });
}

// ---- round trips ----

TEST(ProcessorPipeline, SavedFilesEqualThoseOfLeRobotByteForByte) {
  const TemporaryFolder folder;
  for (const char* name : {kPre, kPost}) {
    load_golden(name).save(folder.path());
    const std::string file = std::string(name) + ".json";
    EXPECT_EQ(read_text(folder / file), read_text(golden() / file));
  }
  for (const char* state : {"policy_preprocessor_step_5_normalizer_processor.safetensors",
                            "policy_postprocessor_step_0_unnormalizer_processor.safetensors"}) {
    const auto saved = read_safetensors(folder / state);
    const auto expected = read_safetensors(golden() / state);
    ASSERT_EQ(saved.size(), expected.size());
    for (const auto& [key, tensor] : expected) EXPECT_TRUE(bitwise_equal(saved.at(key), tensor)) << key;
  }
}

TEST(ProcessorPipeline, StepsBuiltInCodeSaveTheFilesOfLeRobot) {
  const Statistics statistics = load_golden(kPre).statistics();
  const Feature corner{.name = "observation.images.corner", .type = FeatureType::visual, .shape = {3, 96, 96}};
  const Feature wrist{.name = "observation.images.wrist", .type = FeatureType::visual, .shape = {3, 96, 96}};
  const Feature state{.name = "observation.state", .type = FeatureType::state, .shape = {4}};
  const Feature action{.name = "action", .type = FeatureType::action, .shape = {4}};
  const std::map<FeatureType, NormalizationMode> norm_map{{FeatureType::visual, NormalizationMode::identity},
                                                          {FeatureType::state, NormalizationMode::mean_std},
                                                          {FeatureType::action, NormalizationMode::mean_std}};
  const TokenizerStepOptions tokens{.max_length = 24,
                                    .padding = TokenPadding::longest,
                                    .tokenizer_name = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"};
  const ProcessorPipeline pre(
      kPre, {make_rename_step({}), make_to_batch_step(), make_new_line_step("smolvla_new_line_processor"),
             make_tokenizer_step(tokens, TokenizerSearch{}), make_device_step(at::kCPU),
             make_normalizer_step(
                 {.features = {corner, wrist, state, action}, .norm_map = norm_map, .statistics = statistics})});
  const ProcessorPipeline post(
      kPost, {make_unnormalizer_step({.features = {action}, .norm_map = norm_map, .statistics = statistics}),
              make_device_step(at::kCPU)});
  const TemporaryFolder folder;
  pre.save(folder.path());
  post.save(folder.path());
  for (const char* file : {"policy_preprocessor.json", "policy_postprocessor.json"}) {
    EXPECT_EQ(read_text(folder / file), read_text(golden() / file));
  }
}

TEST(ProcessorPipeline, SecondSaveEqualsTheFirst) {
  const TemporaryFolder first;
  const TemporaryFolder second;
  load_golden(kPre).save(first.path());
  ProcessorPipeline::load(first.path(), kPre, {}).save(second.path());
  EXPECT_THAT(second.names(),
              ElementsAre("policy_preprocessor.json", "policy_preprocessor_step_5_normalizer_processor.safetensors"));
  for (const std::string& name : first.names()) EXPECT_EQ(read_text(first / name), read_text(second / name));
}

TEST(ProcessorPipeline, OptionsOfAFileAreWrittenBackAsTheyWere) {
  const std::vector<Json> steps{
      {{"registry_name", "rename_observations_processor"}, {"config", {{"rename_map", {{"z", "a"}, {"b", "c"}}}}}},
      {{"registry_name", "device_processor"}, {"config", {{"device", "cuda:1"}, {"float_dtype", "bfloat16"}}}},
      {{"registry_name", "normalizer_processor"},
       {"config",
        {{"eps", 1e-6},
         {"features", {{"x.y", {{"type", "LANGUAGE"}, {"shape", {2}}}}}},
         {"norm_map", {{"STATE", "QUANTILES"}}},
         {"normalize_observation_keys", {"x.y"}}}}},
      {{"registry_name", "relative_actions_processor"},
       {"config", {{"enabled", false}, {"exclude_joints", {"gripper"}}, {"action_names", nullptr}}}},
      {{"registry_name", "absolute_actions_processor"}, {"config", {{"enabled", true}}}},
      {{"registry_name", "pi0_new_line_processor"}, {"config", Json::object()}},
      {{"registry_name", "pi05_prepare_state_tokenizer_processor_step"}, {"config", {{"max_state_dim", 32}}}},
      {{"registry_name", "tokenizer_processor"},
       {"config", {{"max_length", 8}, {"padding", true}, {"tokenizer_name", "é/x"}}}}};
  for (const Json& step : steps) {
    const TemporaryFolder folder;
    load_step(folder, step).save(folder.path());
    EXPECT_EQ(Json::parse(read_text(folder / "policy_preprocessor.json"))["steps"][0], step);
  }
}

TEST(ProcessorPipeline, StepMayBeNamedByItsClass) {
  const TemporaryFolder folder;
  const ProcessorPipeline pipeline =
      load_step(folder, {{"class", "lerobot.processor.batch_processor.AddBatchDimensionProcessorStep"}});
  ASSERT_EQ(pipeline.steps().size(), 1U);
  EXPECT_EQ(pipeline.steps()[0]->registry_name(), "to_batch_processor");
  EXPECT_THAT(refusal({{"class", "evil.module.DeviceProcessorStep"}}), HasSubstr("evil.module.DeviceProcessorStep"));
}

TEST(ProcessorPipeline, ArtifactLeadsToTheTokenizerAndIsWrittenBackWhereItsFolderIs) {
  const TemporaryFolder from;
  from.write("my_tokens/tokenizer.json", test::small_tokenizer().dump());
  const Json step{{"registry_name", "tokenizer_processor"},
                  {"config", {{"tokenizer_name", "org/absent"}}},
                  {"artifacts", {{"tokenizer_name", "my_tokens"}}}};
  const ProcessorPipeline pipeline = load_step(from, step);
  EXPECT_EQ(pipeline.tokenizer()->vocabulary_size(), 260);

  const auto saved_step = [&](const fs::path& folder) {
    pipeline.save(folder);
    return Json::parse(read_text(folder / "policy_preprocessor.json"))["steps"][0];
  };
  const TemporaryFolder to;
  EXPECT_FALSE(saved_step(to.path()).contains("artifacts"));
  fs::create_directories(to / "my_tokens");
  copy_tokenizer_files(*pipeline.tokenizer(), to / "my_tokens");
  EXPECT_EQ(saved_step(to.path()), step);
}

// ---- changes ----

TEST(ProcessorPipeline, StatisticsReplaceThoseOfEveryNormaliser) {
  ProcessorPipeline pre = load_golden(kPre);
  ProcessorPipeline post = load_golden(kPost);
  const Statistics statistics{{"action", {{"mean", at::full({4}, 1.0)}, {"std", at::full({4}, 2.0)}}}};
  pre.set_statistics(statistics);
  post.set_statistics(statistics);
  ASSERT_EQ(pre.statistics().size(), 1U);
  EXPECT_TRUE(bitwise_equal(pre.statistics().at("action").at("std"), at::full({4}, 2.0)));

  const Batch batch{.tensors = {{"action", at::full({1, 4}, 3.0)}}, .tasks = {"t"}, .indices = {0}};
  EXPECT_TRUE(compare_tensors(post(batch).at("action"), at::full({1, 4}, 7.0)));
}

TEST(ProcessorPipeline, CopyDoesNotShareWhatSettersChange) {
  const ProcessorPipeline original = load_golden(kPost);
  ProcessorPipeline copy = original;
  copy.set_statistics({});
  EXPECT_TRUE(copy.statistics().empty());
  EXPECT_FALSE(original.statistics().empty());
}

TEST(ProcessorPipeline, RenameMapAppliesToTheBatchAndIsSaved) {
  const TemporaryFolder folder;
  ProcessorPipeline pipeline(kPre, {make_rename_step({})});
  pipeline.set_rename_map({{"observation.images.top", "observation.images.front"}});
  EXPECT_EQ(pipeline.rename_map().at("observation.images.top"), "observation.images.front");
  const Batch batch = pipeline(
      {.tensors = {{"observation.images.top", at::full({1, 1}, 255, at::kByte)}}, .tasks = {""}, .indices = {0}});
  EXPECT_TRUE(compare_tensors(batch.at("observation.images.front"), at::ones({1, 1})));
  pipeline.save(folder.path());
  EXPECT_EQ(ProcessorPipeline::load(folder.path(), kPre, {}).rename_map(), pipeline.rename_map());
}

TEST(ProcessorPipeline, RenameMapWithoutARenameStepThrows) {
  ProcessorPipeline pipeline(kPost, {make_device_step(at::kCPU)});
  EXPECT_THAT(message_of<MismatchError>([&] {
                pipeline.set_rename_map({{"a", "b"}});
              }),
              HasSubstr("rename_observations_processor"));
}

TEST(ProcessorPipeline, FeaturesAndDeviceReplaceThoseOfTheSteps) {
  const TemporaryFolder folder;
  ProcessorPipeline pipeline = load_golden(kPost);
  pipeline.set_features({{.name = "action", .type = FeatureType::action, .shape = {7}}});
  pipeline.set_device(at::Device(at::kCUDA, 0));
  pipeline.save(folder.path());
  const Json steps = Json::parse(read_text(folder / "policy_postprocessor.json"))["steps"];
  EXPECT_EQ(steps[0]["config"]["features"].dump(), R"({"action":{"type":"ACTION","shape":[7]}})");
  EXPECT_EQ(steps[1]["config"]["device"], "cuda");
}

TEST(ProcessorPipeline, MissingTokenizerIsNoErrorUntilItIsAskedFor) {
  const TemporaryFolder folder;
  const ProcessorPipeline pipeline = ProcessorPipeline::load(
      golden(), kPre, {.checkpoint = folder.path(), .override_folder = folder / "no_such_tokenizer"});
  EXPECT_FALSE(pipeline.statistics().empty());
  EXPECT_THAT(message_of<IoError>([&] { static_cast<void>(pipeline.tokenizer()); }), HasSubstr("no_such_tokenizer"));
  EXPECT_EQ(load_golden(kPost).tokenizer(), nullptr);
}

// ---- what is refused ----

TEST(ProcessorPipeline, UnknownStepThrowsWithTheNearestName) {
  EXPECT_THAT(refusal({{"registry_name", "normaliser_processor"}, {"config", Json::object()}}),
              AllOf(HasSubstr("policy_preprocessor.json, step 0"), HasSubstr("'normaliser_processor'"),
                    HasSubstr("'normalizer_processor'")));
  EXPECT_THAT(refusal({{"config", Json::object()}}), HasSubstr("'registry_name' or 'class'"));
  EXPECT_THAT(refusal("to_batch_processor"), HasSubstr("'registry_name' or 'class'"));
}

TEST(ProcessorPipeline, UnknownOptionThrowsInsteadOfBeingIgnored) {
  EXPECT_THAT(refusal({{"registry_name", "tokenizer_processor"}, {"config", {{"max_lenght", 3}}}}),
              AllOf(HasSubstr("step 0 (tokenizer_processor)"), HasSubstr("'max_lenght'"), HasSubstr("'max_length'")));
  EXPECT_THAT(refusal({{"registry_name", "to_batch_processor"}, {"config", {{"x", 1}}}}), HasSubstr("'x'"));
}

TEST(ProcessorPipeline, BadOptionValuesAreNamed) {
  const auto tokenizer = [](const char* key, const Json& value) {
    return refusal({{"registry_name", "tokenizer_processor"}, {"config", {{key, value}}}});
  };
  EXPECT_THAT(tokenizer("padding", "do_not_pad"), HasSubstr("'padding'"));
  EXPECT_THAT(tokenizer("padding_side", "top"), HasSubstr("'padding_side'"));
  EXPECT_THAT(tokenizer("max_length", 0), HasSubstr("'max_length'"));
  EXPECT_THAT(tokenizer("task_key", "prompt"), HasSubstr("'task_key'"));
  EXPECT_THAT(refusal({{"registry_name", "device_processor"}, {"config", {{"device", "cuda:x"}}}}),
              HasSubstr("'cuda:x'"));
  EXPECT_THAT(refusal({{"registry_name", "device_processor"}, {"config", {{"float_dtype", "int8"}}}}),
              HasSubstr("'int8'"));
  const auto normalizer = [](const Json& config) {
    return refusal({{"registry_name", "normalizer_processor"}, {"config", config}});
  };
  EXPECT_THAT(normalizer({{"norm_map", {{"STATE", "MEAN"}}}}), HasSubstr("'MEAN'"));
  EXPECT_THAT(normalizer({{"features", {{"a", {{"type", "X"}, {"shape", {1}}}}}}}), HasSubstr("'X'"));
  EXPECT_THAT(normalizer({{"eps", -1.0}}), HasSubstr("'eps'"));
}

TEST(ProcessorPipeline, StateFileIsAPlainNameOfAFileWithGoodKeys) {
  const auto step = [](const char* name, const char* file) {
    return Json{{"registry_name", name}, {"config", Json::object()}, {"state_file", file}};
  };
  for (const char* path : {"../x.safetensors", "/x.safetensors", "a/b.safetensors", "x.bin"}) {
    EXPECT_THAT(refusal(step("normalizer_processor", path)), HasSubstr(path));
  }
  const TemporaryFolder folder;
  const std::vector<NamedTensor> nameless{{.name = "mean", .tensor = at::zeros({1})}};
  write_safetensors(folder / "s.safetensors", nameless);
  EXPECT_THAT(message_of<FormatError>(
                  [&] { static_cast<void>(load_step(folder, step("normalizer_processor", "s.safetensors"))); }),
              HasSubstr("'mean'"));
  EXPECT_THAT(message_of<FormatError>(
                  [&] { static_cast<void>(load_step(folder, step("to_batch_processor", "s.safetensors"))); }),
              HasSubstr("without a state file"));
  EXPECT_THAT(message_of<IoError>(
                  [&] { static_cast<void>(load_step(folder, step("normalizer_processor", "absent.safetensors"))); }),
              HasSubstr("absent.safetensors"));
}

TEST(ProcessorPipeline, ArtifactCannotLeadOutOfTheCheckpoint) {
  EXPECT_THAT(refusal({{"registry_name", "tokenizer_processor"},
                       {"config", Json::object()},
                       {"artifacts", {{"tokenizer_name", "../elsewhere"}}}}),
              HasSubstr("../elsewhere"));
}

TEST(ProcessorPipeline, NameThatIsAPathIsRefused) {
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(ProcessorPipeline::load(golden(), "../config", {})); }),
              HasSubstr("'../config'"));
}

}  // namespace
}  // namespace thaw::processor_pipeline_test
