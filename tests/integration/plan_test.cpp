// What the planner predicts beside what happens.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>

#include <sstream>

#include "models/tiny_cases.h"
#include "support/command.h"
#include "support/live_bytes.h"
#include "support/paths.h"
#include "thaw/core/json.h"
#include "thaw/freeze/apply.h"
#include "thaw/freeze/forecast.h"
#include "thaw/policy/run.h"

namespace thaw::plan_test {
namespace {

using test::CommandResult;
using test::live_bytes_of;
using test::run_thaw;
using testing::AllOf;
using testing::HasSubstr;

const std::string kDataset = std::string(thaw::test::source_dir()) + "/tests/data/metaworld_tiny/v30_av1";

struct Case {
  std::string freeze;
  std::int64_t draws = 1;
  std::string type = "smolvla";

  friend void PrintTo(const Case& each, std::ostream* out) {
    *out << each.type << ", " << each.freeze << ", " << each.draws << " draws";
  }
};

/// Cameras of the configured size; the batch has text of the greatest length, as the layout promises.
std::shared_ptr<Policy> full_length_policy(const std::string& type) {
  if (type != "smolvla") return tiny::pi_policy(type);
  InitOptions options = tiny::options();
  options.cameras[1].shape = {3, 32, 32};
  return init_policy(options);
}

Batch full_length_batch(const Policy& policy, std::int64_t size) {
  const bool is_smolvla = policy.type() == "smolvla";
  const std::int64_t text = policy.config_json()["tokenizer_max_length"].get<std::int64_t>();
  Batch batch = is_smolvla ? tiny::batch(size) : tiny::pi_batch(size);
  if (is_smolvla) {
    batch.tensors["observation.images.wrist"] = tiny::normal(2, {size, 3, 32, 32}).sigmoid();
    batch.tensors.erase("observation.images.wrist_padding_mask");
  }
  batch.tensors["observation.language.tokens"] = at::arange(size * text, at::kLong).view({size, text});
  batch.tensors["observation.language.attention_mask"] = at::ones({size, text}, at::kBool);
  return batch;
}

class ActivationBytes : public testing::TestWithParam<Case> {};

TEST_P(ActivationBytes, ArePredictedFromShapesAlone) {
  constexpr std::int64_t kSamples = 3;
  const std::shared_ptr<Policy> policy = full_length_policy(GetParam().type);
  const FreezePlan plan = LayerFreezePolicy::parse(GetParam().freeze).resolve(*policy);
  apply_freeze(plan, *policy->module());
  const Batch batch = full_length_batch(*policy, kSamples);
  const Draw draw = policy->draw(batch, 1, DrawPurpose::training, 0, GetParam().draws);

  PrefixState state = policy->begin(batch);
  policy->add_draw(state, batch, draw);
  run_frozen_stages(policy->line(), 0, plan.boundary, state);
  double prefix = 0;
  for (const std::string& key : live_keys(policy->layout().line, plan.boundary, policy->layout().image_inputs)) {
    prefix += plan.boundary > 0 ? static_cast<double>(state.at(key).nbytes()) : 0.0;
  }
  const auto meter = live_bytes_of([&] { run_stages(policy->line(), plan.boundary, policy->line().size(), state); });
  const double measured = prefix + meter->live();

  const StepShape shape{.batch_size = kSamples, .draws = GetParam().draws, .prefix_batch = kSamples};
  const double predicted = activation_bytes(policy->layout(), plan, shape);
  EXPECT_NEAR(predicted / measured, 1.0, 0.03) << "predicted " << predicted << ", measured " << measured;
}

INSTANTIATE_TEST_SUITE_P(Freezes, ActivationBytes,
                         testing::Values(Case{"expert=all"}, Case{"expert=2,freeze:*state_proj*"},
                                         Case{"language=2,expert=all"}, Case{"vision=1"},
                                         Case{"*=all,train:*connector*"}, Case{"freeze:@norms"}, Case{"expert=all", 4},
                                         Case{"language=1", 3}));

// Nothing of pi0 is frozen by its own configuration.
INSTANTIATE_TEST_SUITE_P(
    PiFreezes, ActivationBytes,
    testing::Values(Case{"freeze:*paligemma.*", 1, "pi0"}, Case{"freeze:*paligemma.*,expert=2", 1, "pi0"},
                    Case{"vision=0,language=2", 1, "pi0"}, Case{"vision=1", 1, "pi0"}, Case{"freeze:@norms", 1, "pi0"},
                    Case{"freeze:*paligemma.*", 4, "pi0"}, Case{"freeze:*paligemma.*", 1, "pi05"},
                    Case{"freeze:*paligemma.*,expert=2", 1, "pi05"}, Case{"vision=0,language=2", 1, "pi05"},
                    Case{"freeze:*paligemma.*", 4, "pi05"}, Case{"language=1", 3, "pi05"}));

CommandResult plan(std::vector<std::string> more) {
  more.insert(more.begin(), {"plan", "--policy", "smolvla"});
  return run_thaw(more);
}

TEST(PlanCommand, ComparesBlocksAndCutsInOneTable) {
  const CommandResult result =
      plan({"--calibrate", "0", "--batch-size", "4", "--blocks", "0,2,all", "--memory", "8GB"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("A step of 4 samples"), HasSubstr("all"), HasSubstr("vision"),
                                HasSubstr("peak above the program's own")));
  EXPECT_THAT(result.out, HasSubstr("may train; with them the batch may grow to"));
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100) << line;
}

TEST(PlanCommand, JsonHoldsThePlanAndAForecastForEachRow) {
  const CommandResult result = plan({"--calibrate", "0", "--dataset", kDataset, "--blocks", "0,all", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json json = parse_json(result.out, "plan");
  EXPECT_EQ(json["model_type"], "smolvla");
  std::vector<std::string> rows;
  for (const Json& forecast : json["forecasts"]) {
    rows.push_back(forecast["blocks"].get<std::string>() + " " + forecast["cut"]["kind"].get<std::string>());
    EXPECT_GT(forecast["memory"]["peak_bytes"].get<double>(), 1e9);
    EXPECT_TRUE(forecast["step_seconds"].is_null());
  }
  EXPECT_EQ(rows, (std::vector<std::string>{" none", " vision", " hidden", " kv", "0 none", "0 vision", "0 hidden",
                                            "0 kv", "all none"}));
  EXPECT_GT(json["forecasts"][3]["cache_bytes"].get<double>(), 0);
}

TEST(PlanCommand, MeasuresTheMachineWhereAsked) {
  const CommandResult result = run_thaw({"plan", "--policy", "smolvla_tiny", "--calibrate", "0.05", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json json = parse_json(result.out, "plan");
  EXPECT_FALSE(json["rates"]["products"].empty());
  EXPECT_GT(json["forecasts"][0]["step_seconds"].get<double>(), 0);
}

TEST(PlanCommand, WhatItCannotUseEndsWithOneMessageAndCodeTwo) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{"--blocks", "1,x"}, "--blocks"},
      {{"--blocks", ","}, "--blocks"},
      {{"--blocks", "99", "--stack", "language"}, "at most 16"},
      {{"--stack", "langauge"}, "language"},
      {{"--memory", "24XB"}, "--memory"},
      {{"--memory", "-3GB"}, "--memory"},
      {{"--memory", "nanGB"}, "--memory"},
      {{"--cache", "everything"}, "none, auto, vision, hidden or kv"},
      {{"--cache", "kv", "--freeze", "language=2"}, "kv"},
      {{"--cache-storage", "int4"}, "exact (or fp32), bf16 or int8"},
      {{"--batch-size", "0"}, "batch_size"},
      {{"--draws", "0"}, "draws"},
      {{"--precision", "fp8"}, "fp8"},
      {{"--dataset", "/no/such/folder"}, "/no/such/folder"}};
  for (auto [arguments, message] : cases) {
    arguments.insert(arguments.end(), {"--calibrate", "0"});
    const CommandResult result = plan(arguments);
    EXPECT_EQ(result.code, 2) << arguments[0] << ' ' << arguments[1];
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace thaw::plan_test
