// Ten optimizer steps of the reference, repeated by thaw's own Trainer: losses, rates, norms and weights.
#include <torch/nn.h>

#include <cmath>

#include "support/command.h"
#include "support/golden.h"
#include "support/recorded_training.h"
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/models/registry.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/trainer.h"

namespace thaw::golden_trajectory_test {
namespace {

namespace fs = std::filesystem;

struct Mode {
  std::string name;  // "expert_only" or "full", as in meta.json
  bool train_expert_only = true;
};

/// A golden set as a checkpoint folder with the flags of a mode.
std::shared_ptr<Policy> load_set(const fs::path& set, const Mode& mode, const fs::path& scratch) {
  Json config = read_json(set / "config.json");
  config["train_expert_only"] = mode.train_expert_only;
  config["freeze_vision_encoder"] = mode.train_expert_only;
  test::write_file(scratch / "config.json", config.dump(2));
  fs::copy(set / "vlm_config.json", scratch / "vlm_config.json");
  fs::copy(set / "weights.safetensors", scratch / "model.safetensors");
  return load_policy(scratch);
}

Batch recorded_batch(const std::map<std::string, at::Tensor>& inputs) {
  Batch batch;
  for (const auto& [name, tensor] : inputs) {
    if (name.starts_with("observation.") || name.starts_with("action")) batch.tensors[name] = tensor;
  }
  for (std::int64_t i = 0; i < inputs.at("time").size(0); ++i) batch.indices.push_back(i);
  return batch;
}

/// README: a key bias has a mathematically zero gradient, so AdamW turns rounding noise into steps.
bool is_rounding_noise(const std::string& name) {
  return name.find("vision") != std::string::npos && name.ends_with("k_proj.bias");
}

/// The last language block of pi0 and pi0.5: its query is read by nobody, but the reference has a gradient of zeros.
bool has_zero_gradient(const Policy& policy, const std::string& name) {
  if (policy.type() == "smolvla") return false;
  const BlockStack& language = policy.layout().stack("language");
  return name == fmt::format("{}.{}.self_attn.q_proj.weight", language.prefix, language.blocks - 1);
}

class GoldenTrajectory : public testing::TestWithParam<std::string> {
 protected:
  static void repeat(const fs::path& set, const Mode& mode) {
    const Json recorded = read_json(set / "meta.json", {.max_depth = 64})["modes"][mode.name];
    const test::TemporaryFolder scratch;
    const std::shared_ptr<Policy> policy = load_set(set, mode, scratch.path());
    const std::map<std::string, at::Tensor> inputs = read_safetensors(set / "inputs.safetensors");
    const std::map<std::string, at::Tensor> outputs = read_safetensors(set / "outputs.safetensors");
    const Batch batch = recorded_batch(inputs);
    const Draw draw{inputs.at("noise"), inputs.at("time")};

    const FreezePlan plan = LayerFreezePolicy{}.resolve(*policy);
    expect_trainable_set(plan, recorded);
    Trainer trainer(policy, plan, golden::recorded_options(recorded));
    const auto task = make_task<Batch>([&batch](std::int64_t) { return batch; },
                                       [&](const Batch& b) { return policy_loss(*policy, plan.boundary, b, draw); });

    golden::Report report(set.filename().string() + " " + mode.name);
    const std::string prefix = "train." + mode.name + ".";
    const auto expected = [&](const std::string& what, std::int64_t step) {
      return outputs.at(prefix + what)[step].to(at::kDouble);
    };
    for (std::int64_t step = 0; step < golden::kRecordedSteps; ++step) {
      const StepReport done = trainer.step(*task);
      const double relative = step == 0 ? 1e-5 : 1e-4;
      report.expect("loss", "loss", golden::scalar(done.loss()), expected("loss", step), {.relative = relative});
      report.expect("lr", "lr", golden::scalar(done.learning_rate), expected("lr", step), {.relative = 1e-12});
      report.expect("grad norm", "grad_norm", golden::scalar(done.grad_norm()), expected("grad_norm", step),
                    {.relative = 1e-4});
    }
    const at::Tensor last = policy_loss(*policy, plan.boundary, batch, draw).detach().to(at::kDouble);
    report.expect("loss", "loss after the last step", last, expected("loss", golden::kRecordedSteps),
                  {.relative = 1e-4});
    expect_final(report, *policy, outputs, prefix + "final/", recorded["final_l2"]);
  }

 private:
  static void expect_trainable_set(const FreezePlan& plan, const Json& recorded) {
    std::set<std::string> expected;
    for (const Json& name : recorded["trainable"]) expected.insert(name.get<std::string>());
    for (const Json& name : recorded["trainable_without_gradient"]) expected.erase(name.get<std::string>());
    const std::vector<std::string> names = plan.names(ParameterClass::trainable);
    EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), expected);
  }

  static void expect_final(golden::Report& report, Policy& policy, const std::map<std::string, at::Tensor>& outputs,
                           const std::string& prefix, const Json& final_l2) {
    for (const auto& item : policy.module()->named_parameters()) {
      const at::Tensor value = item.value().detach();
      if (const auto found = outputs.find(prefix + item.key()); found != outputs.end()) {
        report.expect("final weights", item.key(), value, found->second, {.absolute = 1e-4});
      }
      if (!final_l2.contains(item.key()) || is_rounding_noise(item.key())) continue;
      const at::Tensor norm = value.to(at::kDouble).norm();
      const at::Tensor recorded = golden::scalar(final_l2[item.key()].get<double>());
      report.expect("final L2 norms", item.key(), norm, recorded, {.absolute = 1e-4, .relative = 1e-4});
      if (!has_zero_gradient(policy, item.key())) continue;
      // Decay alone moves it, by less than the bound above.
      report.expect("decayed alone", item.key(), norm, recorded, {.relative = 1e-6});
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Types, GoldenTrajectory, testing::Values("smolvla", "pi0", "pi05"),
                         [](const auto& type) { return type.param; });

TEST_P(GoldenTrajectory, TenStepsOfTheExpertAloneEqualTheReference) {
  golden::for_each_set(GetParam(), "meta.json", [](const fs::path& set) { repeat(set, {"expert_only", true}); });
}

TEST_P(GoldenTrajectory, TenStepsOfTheWholeModelEqualTheReference) {
  golden::for_each_set(GetParam(), "meta.json", [](const fs::path& set) { repeat(set, {"full", false}); });
}

}  // namespace
}  // namespace thaw::golden_trajectory_test
