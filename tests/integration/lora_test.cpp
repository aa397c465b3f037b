// Adapters through the command: training, proof, resuming, caching, merging, and PEFT's files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/command.h"
#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/models/registry.h"
#include "thaw/policy/adapters.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/head.h"
#include "thaw/train/peft.h"

namespace thaw::lora_test {
namespace {

namespace fs = std::filesystem;
using test::run_thaw;
using test::TemporaryFolder;
using test::write_file;
using testing::HasSubstr;
using testing::Not;
using Tensors = std::map<std::string, at::Tensor>;
using Words = std::vector<std::string>;

const std::string kSource = thaw::test::source_dir();
const std::string kDataset = kSource + "/tests/data/metaworld_tiny/v30_av1";
const std::string kLora = "language=2,rank=2,alpha=4,targets=k_proj+v_proj; expert=all,rank=4,targets=q_proj+down_proj";

std::string golden(const std::string& type) { return kSource + "/tests/golden/checkpoint_" + type; }

Words train_words(const std::string& type, const std::string& output, const Words& more) {
  Words words{"train",
              "--policy",
              golden(type) + "/pretrained_model",
              "--tokenizer",
              golden(type) + "/tokenizer",
              "--dataset",
              kDataset,
              "--steps",
              "4",
              "--batch-size",
              "2",
              "--num-workers",
              "0",
              "--precision",
              "fp32",
              "--lr",
              "1e-3",
              "--quiet",
              "--output",
              output};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// The head of a run that must succeed.
Head trained(const std::string& type, const std::string& output, const Words& more) {
  const auto result = run_thaw(train_words(type, output, more));
  EXPECT_EQ(result.code, 0) << result.err;
  return read_head(fs::path(output) / "heads/last/head.safetensors");
}

void expect_equal(const Head& actual, const Head& expected) {
  ASSERT_EQ(actual.tensors.size(), expected.tensors.size());
  for (const auto& [name, tensor] : expected.tensors) {
    ASSERT_TRUE(actual.tensors.contains(name)) << name;
    EXPECT_TRUE(bitwise_equal(actual.tensors.at(name), tensor)) << name;
  }
}

class Lora : public testing::TestWithParam<std::string> {
 protected:
  TemporaryFolder folder_;
  std::string run_ = folder_ / "run";
};

INSTANTIATE_TEST_SUITE_P(Types, Lora, testing::Values("smolvla", "pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(Lora, TrainsAdaptersAloneAndTheRunProvesIt) {
  const Head head = trained(GetParam(), run_, {"--lora", kLora});
  EXPECT_FALSE(head.info.adapters.empty());
  for (const auto& [name, tensor] : head.tensors) {
    EXPECT_TRUE(is_adapter_parameter(name)) << name;
    EXPECT_GT(tensor.abs().max().item<double>(), 0.0) << name;
  }
  const auto verified = run_thaw({"verify", run_});
  EXPECT_EQ(verified.code, 0) << verified.out;
}

TEST_P(Lora, BesideABlockAtFullRankBothTrain) {
  const Head head = trained(GetParam(), run_, {"--lora", "expert=all,rank=2,type=dora", "--freeze", "expert=1"});
  std::int64_t plain = 0;
  for (const auto& entry : head.tensors) plain += is_adapter_parameter(entry.first) ? 0 : 1;
  EXPECT_GT(plain, 0);
  EXPECT_GT(head.tensors.size(), static_cast<std::size_t>(plain));
  const auto verified = run_thaw({"verify", run_});
  EXPECT_EQ(verified.code, 0) << verified.out;
}

TEST_P(Lora, ResumedEqualsUninterruptedBitForBit) {
  const Head whole = trained(GetParam(), run_, {"--lora", kLora});
  const std::string other = folder_ / "other";
  const Words to_step_two{"--lora", kLora, "--no-auto-scale", "--save-every", "2"};
  const Head plain = trained(GetParam(), folder_ / "plain", to_step_two);
  (void)trained(GetParam(), other, to_step_two);
  fs::remove_all(fs::path(other) / "checkpoints/000004");
  const auto resumed = run_thaw({"train", "--resume", other, "--quiet"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  expect_equal(read_head(fs::path(other) / "heads/last/head.safetensors"), plain);
}

TEST(LoraResume, WithAnotherScaleItIsRefused) {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  (void)trained("smolvla", run, {"--lora", "expert=1,rank=2,alpha=2", "--no-auto-scale"});
  const auto resumed =
      run_thaw({"train", "--resume", run, "--lora", "expert=1,rank=2,alpha=4", "--steps", "6", "--quiet"});
  EXPECT_EQ(resumed.code, 2) << resumed.out;
  EXPECT_THAT(resumed.err, HasSubstr("expected the scale the run was begun with, 1, found 2"));
}

TEST_P(Lora, BehindACachedPrefixItTrainsTheSameBitForBit) {
  const Words lora{"--lora", "expert=all,rank=2"};
  const Head plain = trained(GetParam(), run_, lora);
  const Head cached = trained(GetParam(), folder_ / "cached",
                              {"--lora", "expert=all,rank=2", "--cache", "kv", "--prefix-batch-size", "2"});
  expect_equal(cached, plain);
}

TEST_P(Lora, MergedCheckpointSamplesWhatTheHeadSamples) {
  (void)trained(GetParam(), run_, {"--lora", kLora});
  const std::string merged = folder_ / "merged";
  const auto merge = run_thaw({"merge", run_, "--output", merged, "--json"});
  ASSERT_EQ(merge.code, 0) << merge.err;
  const auto sample = [](Words words) {
    for (const char* word : {"sample", "--json", "--index", "3", "--dataset"}) words.emplace_back(word);
    words.push_back(kDataset);
    std::rotate(words.begin(), std::find(words.begin(), words.end(), "sample"), words.end());
    return run_thaw(words);
  };
  const Words tokenizer{"--tokenizer", golden(GetParam()) + "/tokenizer"};
  Words with_head{"--head", run_};
  Words with_merged{"--policy", merged};
  with_head.insert(with_head.end(), tokenizer.begin(), tokenizer.end());
  with_merged.insert(with_merged.end(), tokenizer.begin(), tokenizer.end());
  const auto from_head = sample(with_head);
  const auto from_merged = sample(with_merged);
  ASSERT_EQ(from_head.code, 0) << from_head.err;
  ASSERT_EQ(from_merged.code, 0) << from_merged.err;
  EXPECT_EQ(from_head.out, from_merged.out);
}

TEST_P(Lora, PeftFolderIsReadAsTheHeadItWasWrittenFrom) {
  const Head head =
      trained(GetParam(), run_,
              {"--lora", kLora + "; train:*action_in_proj*,rank=1,type=rslora", "--freeze", "train:*action_out_proj*"});
  const std::string adapter = folder_ / "adapter";
  const auto written = run_thaw({"merge", run_, "--peft", "--output", adapter, "--json"});
  ASSERT_EQ(written.code, 0) << written.err;
  EXPECT_EQ(parse_json(written.out, "stdout")["modules_to_save"].get<std::int64_t>(), 1);
  ASSERT_TRUE(is_peft_adapter(adapter));
  EXPECT_TRUE(read_json(fs::path(adapter) / "config.json")["use_peft"].get<bool>());

  const Head again = read_head(adapter);
  expect_equal(again, head);
  EXPECT_EQ(again.info.base_digest, head.info.base_digest);
  EXPECT_EQ(again.statistics.size(), head.statistics.size());
  std::map<std::string, double> scales;
  for (const Adapter& one : head.info.adapters) scales[one.linear] = one.scale();
  for (const Adapter& one : again.info.adapters) EXPECT_DOUBLE_EQ(one.scale(), scales.at(one.linear)) << one.linear;

  const std::string merged = folder_ / "merged";
  const std::string from_adapter = folder_ / "from_adapter";
  ASSERT_EQ(run_thaw({"merge", run_, "--output", merged}).code, 0);
  const auto merge = run_thaw({"merge", adapter, "--output", from_adapter});
  ASSERT_EQ(merge.code, 0) << merge.err;
  const Tensors expected = read_safetensors(fs::path(merged) / "model.safetensors");
  for (const auto& [name, tensor] : read_safetensors(fs::path(from_adapter) / "model.safetensors")) {
    EXPECT_TRUE(compare_tensors(tensor, expected.at(name), {.relative_to_max = 1e-6})) << name;
  }
}

// --- bad input ---

class BadAdapter : public testing::Test {
 protected:
  BadAdapter() {
    fs::copy(kSource + "/tests/golden/lora/smolvla/full_linear/adapter", adapter_, fs::copy_options::recursive);
    for (const auto& entry : fs::directory_iterator(adapter_)) {
      fs::permissions(entry, fs::perms::owner_write, fs::perm_options::add);
    }
  }

  void configure(const std::string& field, const Json& value) const {
    Json config = read_json(adapter_ / "adapter_config.json");
    config[field] = value;
    write_file(adapter_ / "adapter_config.json", config.dump());
  }

  void change_tensors(const std::function<void(Tensors&)>& change) const {
    Tensors tensors = read_safetensors(adapter_ / "adapter_model.safetensors");
    change(tensors);
    std::vector<NamedTensor> list;
    for (const auto& [name, tensor] : tensors) list.push_back({.name = name, .tensor = tensor});
    write_safetensors(adapter_ / "adapter_model.safetensors", list);
  }

  /// What merging says, which must write nothing.
  [[nodiscard]] std::string refusal() const {
    const auto result = run_thaw(
        {"merge", adapter_, "--policy", golden("smolvla") + "/pretrained_model", "--output", folder_ / "merged"});
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_FALSE(fs::exists(folder_ / "merged"));
    return result.err;
  }

  TemporaryFolder folder_;
  fs::path adapter_ = folder_ / "adapter";
  const std::string first_ = "base_model.model.model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj.lora_A.weight";
};

TEST_F(BadAdapter, AnotherMethodIsNamed) {
  configure("peft_type", "VERA");
  EXPECT_THAT(refusal(), HasSubstr(R"(peft_type: expected "LORA", found "VERA")"));
}

TEST_F(BadAdapter, TrainedBiasesAndChangedBasesAreRefused) {
  configure("bias", "all");
  EXPECT_THAT(refusal(), HasSubstr("bias: expected"));
  configure("bias", "none");
  configure("init_lora_weights", "pissa_niter_4");
  EXPECT_THAT(refusal(), HasSubstr("expected an initialisation that leaves the base as it is"));
}

TEST_F(BadAdapter, APartThatIsMissingOrLeftOverIsNamed) {
  change_tensors([this](Tensors& tensors) { tensors.erase(first_); });
  EXPECT_THAT(refusal(), HasSubstr("self_attn.q_proj.lora_B.weight: expected a part of an adapter"));
}

TEST_F(BadAdapter, RanksThatDisagreeWithTheConfigurationAreNamed) {
  configure("rank_pattern", Json::object());
  configure("r", 3);
  EXPECT_THAT(refusal(), HasSubstr("expected matrices of rank 3"));
}

TEST_F(BadAdapter, OnAnotherBaseItsFirstLayerThatDoesNotFitIsNamed) {
  change_tensors([this](Tensors& tensors) { tensors[first_] = at::zeros({tensors[first_].size(0), 99}); });
  EXPECT_THAT(refusal(), HasSubstr("self_attn.q_proj.lora_A.weight: expected a tensor of shape"));
}

TEST_F(BadAdapter, NamesWithoutPeftsPrefixAreRefused) {
  change_tensors([](Tensors& tensors) { tensors["stray.weight"] = at::zeros({1}); });
  EXPECT_THAT(refusal(), HasSubstr("stray.weight: expected a name that begins with 'base_model.model.'"));
}

TEST_F(BadAdapter, AHostilePatternEndsInAMessage) {
  configure("alpha_pattern", Json{{"(", 1.0}});
  EXPECT_THAT(refusal(), HasSubstr("pattern: expected a regular expression"));
  configure("alpha_pattern", Json{{std::string(4000, '('), 1.0}});
  EXPECT_THAT(refusal(), HasSubstr("at most 256 letters"));
}

TEST(LoraCommand, PartOfAModuleAtFullRankHasNoPlaceInPeft) {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  (void)trained("smolvla", run, {"--lora", "expert=1,rank=2", "--freeze", "train:*action_out_proj.bias"});
  const auto written = run_thaw({"merge", run, "--peft", "--output", folder / "adapter"});
  EXPECT_EQ(written.code, 2);
  EXPECT_THAT(written.err, HasSubstr("expected all parameters of 'model.action_out_proj' trained, or none"));
  EXPECT_FALSE(fs::exists(folder / "adapter"));
}

TEST(LoraCommand, PlanSaysWhereTheFirstAdapterEndsThePrefix) {
  const auto planned = run_thaw({"plan", "--policy", golden("smolvla") + "/pretrained_model", "--lora",
                                 "language=all,rank=4", "--calibrate", "0", "--json"});
  ASSERT_EQ(planned.code, 0) << planned.err;
  const Json plan = parse_json(planned.out, "stdout");
  EXPECT_THAT(plan["boundary"]["parameter"].get<std::string>(), HasSubstr("layers.0.self_attn"));
  EXPECT_THAT(plan["boundary"]["parameter"].get<std::string>(), HasSubstr(".lora_"));
  for (const Json& forecast : plan["forecasts"]) EXPECT_NE(forecast["cut"].dump(), "\"kv\"");
}

}  // namespace
}  // namespace thaw::lora_test
