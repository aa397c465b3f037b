// What only a CUDA device can show. Without one every test here is skipped, saying why.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "support/paths.h"
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/models/registry.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/device.h"
#include "thaw/tensor/device_graph.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/trainer.h"
#include "thaw/train/verify.h"

namespace thaw::cuda_test {
namespace {

namespace fs = std::filesystem;
const fs::path kSource = thaw::test::source_dir();
const at::Device kCuda(at::kCUDA, 0);

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << "no CUDA device answers";
    // Products of float32 in float32, as on the CPU.
    at::globalContext().setAllowTF32CuBLAS(false);
    at::globalContext().setAllowTF32CuDNN(false);
  }
};

class CudaGraph : public Cuda {
 protected:
  void SetUp() override {
    Cuda::SetUp();
    if (IsSkipped()) return;
    if (const std::string obstacle = device_graph_obstacle(kCuda); !obstacle.empty()) GTEST_SKIP() << obstacle;
  }
};

std::shared_ptr<Policy> tiny_policy() {
  return load_policy(kSource / "tests/golden/checkpoint_smolvla/pretrained_model",
                     {.tokenizer_folder = kSource / "tests/golden/checkpoint_smolvla/tokenizer", .dtype = at::kFloat});
}

LeRobotDataset dataset() { return LeRobotDataset::open(kSource / "tests/data/metaworld_tiny/v30_png"); }

TrainOptions options_on(at::Device device, std::int64_t steps = 12) {
  return {.steps = steps,
          .batch_size = 3,
          .precision = Precision::fp32,
          .cuda_graph = CudaGraphs::off,
          .device = device,
          .save_every = 0,
          .log_every = 1,
          .tensorboard = false,
          .quiet = true};
}

struct Trained {
  std::vector<double> losses;
  std::map<std::string, at::Tensor> parameters;  ///< on the CPU
};

struct Losses : TrainObserver {
  void on_step(const StepReport& report) override { all.push_back(report.loss()); }
  std::vector<double> all;
};

Trained train(const TrainOptions& options) {
  const std::shared_ptr<Policy> policy = tiny_policy();
  Trainer trainer(policy, LayerFreezePolicy::parse("vision=0,language=2,expert=all").resolve(*policy), options);
  const auto losses = std::make_shared<Losses>();
  trainer.add_observer(losses);
  trainer.fit(dataset());
  Trained result{.losses = losses->all};
  for (const auto& item : policy->module()->named_parameters()) {
    result.parameters[item.key()] = item.value().detach().cpu();
  }
  return result;
}

void expect_near(const Trained& found, const Trained& expected, double loss_bound, double weight_bound) {
  ASSERT_EQ(found.losses.size(), expected.losses.size());
  for (std::size_t step = 0; step < expected.losses.size(); ++step) {
    EXPECT_NEAR(found.losses[step], expected.losses[step], loss_bound * expected.losses[step]) << "step " << step;
  }
  for (const auto& [name, tensor] : expected.parameters) {
    // A key bias has no true gradient: what AdamW makes of its rounding noise differs from device to device.
    if (name.ends_with("k_proj.bias")) continue;
    const Comparison result = compare_tensors(found.parameters.at(name), tensor, {.absolute = weight_bound});
    EXPECT_TRUE(result) << name << ": " << result.message;
  }
}

TEST_F(Cuda, TrainingOnTheDeviceFollowsTrainingOnTheCpu) {
  expect_near(train(options_on(kCuda)), train(options_on(at::kCPU)), 1e-4, 1e-4);
}

TEST_F(Cuda, FrozenTensorsKeepEveryBitOnTheDevice) {
  const std::shared_ptr<Policy> policy = tiny_policy();
  std::map<std::string, at::Tensor> before;
  for (const auto& item : policy->module()->named_parameters()) before[item.key()] = item.value().detach().clone();
  const FreezePlan plan = LayerFreezePolicy::parse("vision=0,language=2,expert=all").resolve(*policy);
  Trainer(policy, plan, options_on(kCuda)).fit(dataset());
  for (const auto& item : policy->module()->named_parameters()) {
    const at::Tensor now = item.value().detach().cpu();
    EXPECT_TRUE(plan.trains(item.key()) || bitwise_equal(now, before.at(item.key()))) << item.key();
  }
}

TEST_F(Cuda, ACachedRunEqualsAnUncachedOneBitForBit) {
  TrainOptions plain = options_on(kCuda);
  plain.prefix.batch_size = 1;
  TrainOptions cached = plain;
  cached.prefix.cache = CacheCut::hidden;
  const Trained expected = train(plain);
  const Trained found = train(cached);
  EXPECT_EQ(found.losses, expected.losses);
  for (const auto& [name, tensor] : expected.parameters) {
    EXPECT_TRUE(bitwise_equal(found.parameters.at(name), tensor)) << name;
  }
}

TEST_F(CudaGraph, RecordedWorkReadsItsInputsAnewAtEveryPlayback) {
  const std::unique_ptr<DeviceGraph> graph = make_device_graph(kCuda);
  const at::Tensor x = at::arange(4, at::TensorOptions(at::kFloat).device(kCuda));
  at::Tensor y;
  graph->record([&] { y = x * 2 + 1; });
  for (const double first : {1.0, 5.0}) {
    x.fill_(first);
    graph->replay();
    EXPECT_TRUE(bitwise_equal(y.cpu(), at::full({4}, 2 * first + 1, at::kFloat)));
  }
}

TEST_F(CudaGraph, RecordedTrainingFollowsPlainTraining) {
  TrainOptions recorded = options_on(kCuda);
  recorded.cuda_graph = CudaGraphs::on;
  // The recorded step reads its learning rate as float32.
  expect_near(train(recorded), train(options_on(kCuda)), 1e-5, 1e-5);
}

}  // namespace
}  // namespace thaw::cuda_test
