// Adapters that PEFT wrote, on the tiny policies: loss, gradients, sampled actions, merged weights and ten optimizer
// steps against tests/golden/lora.
#include <gmock/gmock.h>
#include <torch/nn/module.h>

#include <set>

#include "models/golden_set.h"
#include "support/paths.h"
#include "support/recorded_training.h"
#include "thaw/freeze/adapter_rules.h"
#include "thaw/models/registry.h"
#include "thaw/policy/adapters.h"
#include "thaw/train/head.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/trainer.h"

namespace thaw::lora_golden_test {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

const fs::path kGolden = fs::path(thaw::test::source_dir()) / "tests/golden";

/// One adapter and what PEFT computed with it.
class Recorded {
 public:
  explicit Recorded(const std::string& name)
      : name_(name),
        meta_(read_json(kGolden / "lora/meta.json", {.max_depth = 64})["sets"][name]),
        base_(kGolden / meta_["base"].get<std::string>()),
        head_(read_head(adapter())),
        forward_(read_safetensors(folder() / "forward.safetensors")),
        trajectory_(read_safetensors(folder() / "trajectory.safetensors")) {}

  [[nodiscard]] fs::path folder() const { return kGolden / "lora" / name_; }
  [[nodiscard]] fs::path adapter() const { return folder() / "adapter"; }
  [[nodiscard]] const Json& meta() const { return meta_; }
  [[nodiscard]] const golden::RecordedPolicy& base() const { return base_; }
  [[nodiscard]] std::shared_ptr<Policy> fresh_base() const { return load_policy(base_.checkpoint()); }
  [[nodiscard]] const Head& head() const { return head_; }
  [[nodiscard]] const Tensors& forward() const { return forward_; }
  [[nodiscard]] const Tensors& trajectory() const { return trajectory_; }

  /// The base with the adapter beside its weights.
  [[nodiscard]] std::shared_ptr<Policy> adapted() const {
    const std::shared_ptr<Policy> policy = fresh_base()->with_adapters(head_.info.adapters, 0);
    load_head(*policy, adapter());
    return policy;
  }

  /// Trains what PEFT trains: the adapters, and modules at full rank.
  [[nodiscard]] FreezePlan plan(const Policy& policy) const {
    LayerFreezePolicy full_rank;
    for (const auto& entry : head_.tensors) {
      if (!is_adapter_parameter(entry.first)) full_rank.train(entry.first);
    }
    return freeze_beside_adapters(full_rank).resolve(policy);
  }

  [[nodiscard]] at::Tensor loss(const Policy& policy, std::size_t boundary) const {
    return policy_loss(policy, boundary, base_.batch(), base_.draw());
  }

  [[nodiscard]] at::Tensor actions(const Policy& policy) const {
    return policy.sample(base_.batch(), base_.inputs.at("sample.noise"));
  }

 private:
  std::string name_;
  Json meta_;
  golden::RecordedPolicy base_;
  Head head_;
  Tensors forward_;
  Tensors trajectory_;
};

class LoraGolden : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Sets, LoraGolden,
                         testing::Values("smolvla/lora", "smolvla/rslora", "smolvla/dora", "smolvla/dora_bias",
                                         "smolvla/full_linear", "smolvla/full_block", "smolvla/lerobot", "pi0/lora",
                                         "pi0/dora_bias", "pi05/dora_bias"),
                         [](const auto& set) {
                           std::string name = set.param;
                           std::replace(name.begin(), name.end(), '/', '_');
                           return name;
                         });

TEST_P(LoraGolden, AdaptersHaveTheScalesOfTheReference) {
  const Recorded recorded(GetParam());
  std::map<std::string, double> scales;
  for (const Adapter& adapter : recorded.head().info.adapters) scales[adapter.linear] = adapter.scale();
  EXPECT_EQ(scales.size(), recorded.meta()["scales"].size());
  for (const auto& item : recorded.meta()["scales"].items()) {
    EXPECT_DOUBLE_EQ(scales[item.key()], item.value().get<double>()) << item.key();
  }
}

TEST_P(LoraGolden, LossGradientsAndActionsEqualTheReference) {
  const Recorded recorded(GetParam());
  const std::shared_ptr<Policy> policy = recorded.adapted();
  const FreezePlan plan = recorded.plan(*policy);
  EXPECT_EQ(plan.elements(ParameterClass::trainable), recorded.meta()["trainable_parameters"].get<std::int64_t>());
  auto parameters = policy->module()->named_parameters();
  for (const PlannedParameter& planned : plan.parameters) {
    parameters[planned.name].set_requires_grad(planned.parameter_class == ParameterClass::trainable);
  }
  golden::Report report(GetParam());
  const at::Tensor loss = recorded.loss(*policy, plan.boundary);
  report.expect("loss", "loss", loss.detach(), recorded.forward().at("loss"), {.relative = golden::kLoss});
  loss.backward();
  for (const auto& item : parameters) {
    const auto expected = recorded.forward().find("grad/" + item.key());
    if (expected == recorded.forward().end()) {
      EXPECT_FALSE(item.value().grad().defined()) << item.key();
    } else {
      report.expect_gradient("gradients", item.key(), item.value().grad(), expected->second);
    }
  }
  report.expect("actions", "actions", recorded.actions(*policy), recorded.forward().at("actions"),
                {.absolute = golden::kSample});
}

TEST_P(LoraGolden, MergedWeightsComputeTheSame) {
  const Recorded recorded(GetParam());
  const std::shared_ptr<Policy> policy = recorded.fresh_base();
  const at::Tensor before = recorded.actions(*policy);
  load_head(*policy, recorded.adapter());
  golden::Report report(GetParam() + " merged");
  const at::NoGradGuard no_grad;
  report.expect("loss", "loss", recorded.loss(*policy, 0), recorded.forward().at("merged.loss"),
                {.relative = golden::kLoss});
  const at::Tensor after = recorded.actions(*policy);
  report.expect("actions", "actions", after, recorded.forward().at("merged.actions"), {.absolute = golden::kSample});
  EXPECT_GT((after - before).abs().max().item<double>(), 0.1) << "the adapter does nothing";
}

TEST_P(LoraGolden, TenStepsEqualTheReference) {
  const Recorded recorded(GetParam());
  const std::shared_ptr<Policy> policy = recorded.adapted();
  const FreezePlan plan = recorded.plan(*policy);
  Trainer trainer(policy, plan, golden::recorded_options(recorded.meta()));
  const auto task = make_task<Batch>([&](std::int64_t) { return recorded.base().batch(); },
                                     [&](const Batch&) { return recorded.loss(*policy, plan.boundary); });
  golden::Report report(GetParam() + " trajectory");
  const Tensors& expected = recorded.trajectory();
  for (std::int64_t step = 0; step < golden::kRecordedSteps; ++step) {
    const StepReport done = trainer.step(*task);
    report.expect("loss", "loss", golden::scalar(done.loss()), expected.at("loss")[step],
                  {.relative = step == 0 ? 1e-5 : 1e-4});
    report.expect("lr", "lr", golden::scalar(done.learning_rate), expected.at("lr")[step], {.relative = 1e-12});
    report.expect("grad norm", "grad norm", golden::scalar(done.grad_norm()), expected.at("grad_norm")[step],
                  {.relative = 1e-4});
  }
  std::set<std::string> seen;
  for (const auto& item : policy->module()->named_parameters()) {
    const auto last = expected.find("final/" + item.key());
    if (last == expected.end()) continue;
    seen.insert(item.key());
    report.expect("final", item.key(), item.value().detach(), last->second, {.absolute = 1e-4});
  }
  EXPECT_EQ(seen.size(), plan.names(ParameterClass::trainable).size());
}

}  // namespace
}  // namespace thaw::lora_golden_test
