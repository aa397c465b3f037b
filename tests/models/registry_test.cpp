// Loading, making and saving policies; files that are not what they should be.
#include "thaw/models/registry.h"

#include <torch/nn/module.h>

#include <fstream>
#include <limits>

#include "models/tiny_policy.h"
#include "support/temporary_folder.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::registry_test {
namespace {

namespace fs = std::filesystem;
using testing_support::TemporaryFolder;
using Tensors = std::map<std::string, at::Tensor>;

const std::string kBias = "model.action_out_proj.bias";
const std::string kHead = "model.vlm_with_expert.vlm.lm_head.weight";

// A saved tiny policy whose files a test may spoil.
class Checkpoint {
 public:
  Checkpoint() { tiny::policy()->save_pretrained(path()); }
  [[nodiscard]] const fs::path& path() const { return folder_.path(); }
  [[nodiscard]] Tensors tensors() const { return read_safetensors(path() / "model.safetensors"); }

  void write(const Tensors& tensors) const {
    std::vector<NamedTensor> list;
    for (const auto& [name, tensor] : tensors) list.push_back({.name = name, .tensor = tensor});
    write_safetensors(path() / "model.safetensors", list);
  }

  void edit_config(const std::string& key, const Json& value) const {
    Json config = read_json(path() / "config.json");
    config[key] = value;
    write_text_atomic(path() / "config.json", config.dump());
  }

  void remove_processors() const {
    for (const auto& entry : fs::directory_iterator(path())) {
      if (entry.path().filename().string().rfind("policy_", 0) == 0) fs::remove(entry.path());
    }
  }

 private:
  TemporaryFolder folder_;
};

template <class Error>
std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "no such error was thrown";
}

std::string load_error(const fs::path& folder) {
  return message_of<Error>([&folder] { static_cast<void>(load_policy(folder)); });
}

Tensors parameters_of(const Policy& policy) {
  Tensors parameters;
  for (const auto& parameter : policy.module()->named_parameters()) {
    parameters[parameter.key()] = parameter.value().detach();
  }
  return parameters;
}

void expect_same_parameters(const Tensors& actual, const Tensors& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_TRUE(actual.contains(name)) << name;
    EXPECT_TRUE(bitwise_equal(actual.at(name), tensor)) << name;
  }
}

std::string bytes_of(const fs::path& file) { return read_text(file); }

TEST(InitPolicy, ModuleAndLayoutListTheSameParametersAndStagesTheSameLine) {
  const auto policy = tiny::policy();
  const auto parameters = policy->module()->named_parameters();
  ASSERT_EQ(parameters.size(), policy->layout().parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const ParameterInfo& info = policy->layout().parameters[i];
    EXPECT_EQ(parameters[i].key(), info.name);
    EXPECT_EQ(parameters[i].value().sizes(), at::IntArrayRef(info.shape)) << info.name;
    EXPECT_EQ(parameters[i].value().scalar_type(), info.dtype) << info.name;
    EXPECT_EQ(parameters[i].value().requires_grad(), info.trainable_by_default) << info.name;
  }
  ASSERT_EQ(policy->line().size(), policy->layout().line.size());
  for (std::size_t i = 0; i < policy->line().size(); ++i) {
    EXPECT_EQ(policy->line()[i].info.name, policy->layout().line[i].name);
    EXPECT_EQ(policy->line()[i].info.reads, policy->layout().line[i].reads);
    EXPECT_EQ(policy->line()[i].info.writes, policy->layout().line[i].writes);
    EXPECT_EQ(policy->line()[i].info.parameters, policy->layout().line[i].parameters);
  }
}

TEST(InitPolicy, WeightsAreAFunctionOfTheSeedAndNoneIsConstant) {
  InitOptions options = tiny::options();
  const Tensors first = parameters_of(*init_policy(options));
  expect_same_parameters(parameters_of(*init_policy(options)), first);
  options.seed = 1;
  const Tensors other = parameters_of(*init_policy(options));
  for (const auto& [name, tensor] : first) {
    EXPECT_FALSE(bitwise_equal(other.at(name), tensor)) << name;
    EXPECT_GT(tensor.std().item<double>(), 0.0) << name;
  }
}

TEST(InitPolicy, PublishedTypesAreBfloat16WithFloat32Projections) {
  InitOptions options = tiny::options();
  options.dtypes = InitialDtypes::published;
  const auto policy = init_policy(options);
  const Tensors parameters = parameters_of(*policy);
  const std::string expert = "model.vlm_with_expert.lm_expert.layers.";
  EXPECT_EQ(parameters.at(kBias).scalar_type(), at::kFloat);
  EXPECT_EQ(parameters.at(expert + "0.self_attn.k_proj.weight").scalar_type(), at::kBFloat16);
  EXPECT_EQ(parameters.at(expert + "1.self_attn.k_proj.weight").scalar_type(), at::kFloat);
  EXPECT_EQ(parameters.at(kHead).scalar_type(), at::kFloat) << "load_vlm_weights is false";
  const at::Tensor actions = policy->sample(tiny::batch(), tiny::normal(9, {2, 8, 10}));
  EXPECT_EQ(actions.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::isfinite(actions).all().item<bool>());
}

TEST(InitPolicy, OptionsOfADatasetReplaceCamerasAndWidths) {
  InitOptions options = tiny::options();
  options.state_dim = 20;  // wider than the configuration's 12
  options.chunk_size = 5;
  const auto policy = init_policy(options);
  EXPECT_EQ(find_feature(policy->input_features(), "observation.state")->shape, (std::vector<std::int64_t>{20}));
  EXPECT_EQ(find_feature(policy->output_features(), "action")->shape, (std::vector<std::int64_t>{5}));
  EXPECT_EQ(policy->input_features().front().name, "observation.images.front");
  EXPECT_EQ(policy->chunk_size(), 5);
  EXPECT_EQ(parameters_of(*policy).at("model.state_proj.weight").size(1), 20);
}

TEST(InitPolicy, ACameraThatIsNoCameraIsRefused) {
  InitOptions options = tiny::options();
  options.cameras.front().type = FeatureType::state;
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(init_policy(options)); }),
              testing::AllOf(testing::HasSubstr("observation.images.front"), testing::HasSubstr("STATE")));
}

TEST(SavePretrained, WhatIsSavedLoadsBackEqualAndSavesToTheSameBytes) {
  const Checkpoint checkpoint;
  const auto policy = tiny::policy();
  const auto loaded = load_policy(checkpoint.path());
  expect_same_parameters(parameters_of(*loaded), parameters_of(*policy));
  EXPECT_EQ(loaded->source(), checkpoint.path());
  const at::Tensor noise = tiny::normal(9, {2, 8, 10});
  EXPECT_TRUE(bitwise_equal(loaded->sample(tiny::batch(), noise), policy->sample(tiny::batch(), noise)));

  const TemporaryFolder again;
  loaded->save_pretrained(again.path());
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(checkpoint.path())) {
    const fs::path name = entry.path().filename();
    EXPECT_EQ(bytes_of(again.path() / name), bytes_of(entry.path())) << name;
    ++files;
  }
  EXPECT_GE(files, 5U);  // configuration, sizes, weights, two processors
}

TEST(SavePretrained, TheWeightsFileSaysPyTorch) {
  const Checkpoint checkpoint;
  const SafetensorsFile file(checkpoint.path() / "model.safetensors");
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
}

TEST(LoadPolicy, TypesAreTheFilesUnlessOverridden) {
  const Checkpoint checkpoint;
  Tensors tensors = checkpoint.tensors();
  tensors[kHead] = tensors.at(kHead).to(at::kBFloat16);
  checkpoint.write(tensors);
  const auto policy = load_policy(checkpoint.path());
  EXPECT_EQ(parameters_of(*policy).at(kHead).scalar_type(), at::kBFloat16);
  EXPECT_EQ(policy->layout().parameter(kHead).dtype, at::kBFloat16);
  EXPECT_EQ(policy->layout().parameter(kBias).dtype, at::kFloat);
  EXPECT_EQ(layout_of_named_config(checkpoint.path().string()).parameter(kHead).dtype, at::kBFloat16);
  const auto wide = load_policy(checkpoint.path(), {.dtype = at::kDouble});
  for (const auto& [name, tensor] : parameters_of(*wide)) EXPECT_EQ(tensor.scalar_type(), at::kDouble) << name;
}

TEST(LoadPolicy, EveryUnknownMissingMisshapenAndIntegerTensorIsNamed) {
  const Checkpoint checkpoint;
  Tensors tensors = checkpoint.tensors();
  tensors.erase(kBias);
  tensors["model.extra.weight"] = at::zeros({2});
  tensors["model.state_proj.bias"] = at::zeros({7});
  tensors["model.action_in_proj.bias"] = at::zeros({30}, at::kLong);
  checkpoint.write(tensors);
  const std::string message = load_error(checkpoint.path());
  EXPECT_THAT(message, testing::HasSubstr("1 missing: " + kBias));
  EXPECT_THAT(message, testing::HasSubstr("1 unknown: model.extra.weight"));
  EXPECT_THAT(message, testing::HasSubstr("1 misshapen: model.state_proj.bias (7) instead of (40)"));
  EXPECT_THAT(message, testing::HasSubstr("1 not floating point: model.action_in_proj.bias"));
  EXPECT_THAT(message, testing::HasSubstr("model.safetensors"));
}

TEST(LoadPolicy, LongListsOfFaultsAreCut) {
  const Checkpoint checkpoint;
  checkpoint.write({{kBias, checkpoint.tensors().at(kBias)}});
  EXPECT_THAT(load_error(checkpoint.path()), testing::ContainsRegex("123 missing: .* and 115 more"));
}

TEST(LoadPolicy, WeightsThatAreNotFiniteAreRefusedUnlessAllowed) {
  const Checkpoint checkpoint;
  Tensors tensors = checkpoint.tensors();
  tensors[kBias][3] = std::numeric_limits<float>::quiet_NaN();
  tensors[kHead][0][0] = std::numeric_limits<float>::infinity();
  tensors["model.state_proj.bias"].fill_(3e38F);  // finite, though its sum is not
  checkpoint.write(tensors);
  const std::string message = load_error(checkpoint.path());
  EXPECT_THAT(message, testing::AllOf(testing::HasSubstr("2 tensors with NaN or infinity"), testing::HasSubstr(kBias),
                                      testing::HasSubstr(kHead)));
  EXPECT_THAT(message, testing::Not(testing::HasSubstr("state_proj")));
  EXPECT_NO_THROW(static_cast<void>(load_policy(checkpoint.path(), {.allow_non_finite = true})));
}

TEST(LoadPolicy, SegmentsOfCompiledModelsAreDropped) {
  const Checkpoint checkpoint;
  Tensors compiled;
  for (const auto& [name, tensor] : checkpoint.tensors()) compiled["model._orig_mod." + name.substr(6)] = tensor;
  checkpoint.write(compiled);
  expect_same_parameters(parameters_of(*load_policy(checkpoint.path())), parameters_of(*tiny::policy()));
}

TEST(LoadPolicy, NormalisationBuffersInsideTheModelBecomeStatisticsOfTheProcessors) {
  const Checkpoint checkpoint;
  checkpoint.remove_processors();
  Tensors tensors = checkpoint.tensors();
  const at::Tensor mean = tiny::normal(1, {6});
  const at::Tensor std = tiny::normal(2, {6}).abs() + 0.5;
  tensors["normalize_inputs.so100_buffer_observation_state.mean"] = mean;
  tensors["normalize_inputs.so100_buffer_observation_state.std"] = std;
  for (const char* group : {"normalize_targets", "unnormalize_outputs"}) {
    tensors[std::string(group) + ".buffer_action.mean"] = at::full({5}, 2.0);
    tensors[std::string(group) + ".buffer_action.std"] = at::full({5}, 3.0);
  }
  checkpoint.write(tensors);
  const auto policy = load_policy(checkpoint.path());
  const Statistics statistics = policy->preprocessor().statistics();
  EXPECT_TRUE(bitwise_equal(statistics.at("observation.state").at("mean"), mean));
  EXPECT_TRUE(bitwise_equal(statistics.at("observation.state").at("std"), std));
  Batch actions;
  actions.tensors["action"] = at::ones({1, 8, 5});
  EXPECT_TRUE(compare_tensors(policy->postprocessor()(actions).at("action"), at::full({1, 8, 5}, 5.0)));
}

TEST(LoadPolicy, BuffersOfSeveralRobotsThatDisagreeAreNotChosenAmong) {
  const Checkpoint checkpoint;
  checkpoint.remove_processors();
  Tensors tensors = checkpoint.tensors();
  for (const char* robot : {"so100", "so100-red"}) {
    const std::string prefix = std::string("normalize_inputs.") + robot + "_buffer_observation_state.";
    tensors[prefix + "mean"] = tiny::normal(robot == std::string("so100") ? 1 : 2, {6});
    tensors[prefix + "std"] = at::ones({6});
  }
  checkpoint.write(tensors);
  EXPECT_TRUE(load_policy(checkpoint.path())->preprocessor().statistics().empty());
}

TEST(LoadPolicy, OutputFeaturesOfADatasetReplaceTheCheckpoints) {
  const Checkpoint checkpoint;
  const Features features{{.name = "action", .type = FeatureType::action, .shape = {3}}};
  const auto policy = load_policy(checkpoint.path(), {.output_features = features});
  EXPECT_EQ(policy->output_features().front().shape, (std::vector<std::int64_t>{3}));
  EXPECT_EQ(policy->sample(tiny::batch(), tiny::normal(9, {2, 8, 10})).size(2), 3);
  const TemporaryFolder saved;
  policy->save_pretrained(saved.path());
  EXPECT_EQ(read_json(saved.path() / "config.json")["output_features"]["action"]["shape"], Json::array({3}));
  const Features wide{{.name = "action", .type = FeatureType::action, .shape = {11}}};
  EXPECT_THAT(
      message_of<UsageError>([&] { static_cast<void>(load_policy(checkpoint.path(), {.output_features = wide})); }),
      testing::HasSubstr("1..10"));
}

TEST(LoadPolicy, AnUnknownTypeIsRefusedWithTheKnownOnes) {
  const Checkpoint checkpoint;
  checkpoint.edit_config("type", "diffusion");
  EXPECT_THAT(load_error(checkpoint.path()),
              testing::AllOf(testing::HasSubstr("'diffusion'"), testing::HasSubstr("(smolvla, pi0, pi05)")));
  checkpoint.edit_config("type", 3);
  EXPECT_THAT(load_error(checkpoint.path()), testing::HasSubstr("type"));
}

TEST(LoadPolicy, MissingFilesAreNamed) {
  const Checkpoint checkpoint;
  EXPECT_THAT(load_error(checkpoint.path() / "nowhere"), testing::HasSubstr("no such folder"));
  fs::rename(checkpoint.path() / "model.safetensors", checkpoint.path() / "adapter_model.safetensors");
  EXPECT_THAT(load_error(checkpoint.path()),
              testing::AllOf(testing::HasSubstr("model.safetensors"), testing::HasSubstr("adapter")));
  fs::remove(checkpoint.path() / "config.json");
  EXPECT_THAT(load_error(checkpoint.path()), testing::HasSubstr("no config.json"));
}

TEST(LoadPolicy, WithoutTheSizesFileThePublishedSizesAreExpected) {
  const Checkpoint checkpoint;
  fs::remove(checkpoint.path() / "vlm_config.json");
  EXPECT_THAT(load_error(checkpoint.path()), testing::HasSubstr("vlm_config.json"));
}

TEST(LoadPolicy, AFileThatIsNoModelIsNamedAsWhatItIs) {
  const Checkpoint checkpoint;
  std::ofstream(checkpoint.path() / "model.safetensors", std::ios::trunc)
      << "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
  EXPECT_THAT(load_error(checkpoint.path()), testing::HasSubstr("LFS"));
  write_text_atomic(checkpoint.path() / "config.json", "{\"type\": ");
  EXPECT_THAT(load_error(checkpoint.path()), testing::HasSubstr("config.json"));
}

}  // namespace
}  // namespace thaw::registry_test
