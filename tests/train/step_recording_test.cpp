// Steps that are recorded and played back. The graph here stands for a device's: what is played back is the work as it
// was recorded, so a step that kept anything of its first inputs, or a number of the host, would repeat it.
#include <torch/nn/module.h>

#include "../../src/train/engine_impl.h"
#include "core/throws.h"
#include "fake_policy.h"
#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/freeze/apply.h"
#include "thaw/train/policy_task.h"
#include "toy.h"

namespace thaw::step_recording_test {
namespace {

using test::message_of;
using ::testing::HasSubstr;
using toy::FakePolicy;

/// Runs the recorded work again at every playback.
class AgainGraph final : public DeviceGraph {
 public:
  void record(const std::function<void()>& work) override { work_ = work; }
  void replay() override { work_(); }

 private:
  std::function<void()> work_;
};

TrainOptions options_of(std::int64_t steps) {
  return {.steps = steps,
          .batch_size = 4,
          .workers = 0,
          .precision = Precision::fp32,
          .device = at::Device(at::kCPU),
          .optimizer = {.learning_rate = 1e-2},
          .schedule = {.warmup_steps = 2, .decay_steps = 10},
          .quiet = true};
}

/// A policy's training, step by step, on an engine of its own.
struct Training {
  Training(const TrainOptions& given, StepRecording::MakeGraph make_graph)
      : options(given), policy(std::make_shared<FakePolicy>()), plan(policy->plan("freeze:*,train:hand.*")) {
    add_digests(plan, *policy->module());
    apply_freeze(plan, *policy->module());
    const auto folder = std::filesystem::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny/v30_png";
    task = std::make_unique<PolicyTask>(policy, plan, LeRobotDataset::open(folder), options, at::Device(at::kCPU));
    engine = std::make_unique<Engine>(policy->module(), plan, options, policy->training_preset(), Precision::fp32,
                                      at::Device(at::kCPU), std::move(make_graph));
  }
  std::vector<StepReport> reports() {
    std::vector<StepReport> all;
    for (std::int64_t step = 0; step < options.steps; ++step) all.push_back(engine->step(*task));
    return all;
  }
  TrainOptions options;
  std::shared_ptr<FakePolicy> policy;
  FreezePlan plan;
  std::unique_ptr<PolicyTask> task;
  std::unique_ptr<Engine> engine;
};

StepRecording::MakeGraph counting(int& graphs) {
  return [&graphs] {
    ++graphs;
    return std::make_unique<AgainGraph>();
  };
}

TEST(StepRecording, RecordedTrainingEqualsPlainTrainingBitForBit) {
  int graphs = 0;
  Training plain(options_of(12), nullptr);
  Training recorded(options_of(12), counting(graphs));
  const std::vector<StepReport> expected = plain.reports();
  const std::vector<StepReport> found = recorded.reports();
  for (std::size_t step = 0; step < expected.size(); ++step) {
    EXPECT_EQ(found[step].loss(), expected[step].loss()) << "step " << step;
    EXPECT_EQ(found[step].grad_norm(), expected[step].grad_norm()) << "step " << step;
    EXPECT_EQ(found[step].samples, expected[step].samples) << "step " << step;
    EXPECT_EQ(found[step].learning_rate, expected[step].learning_rate) << "step " << step;
  }
  EXPECT_EQ(graphs, 1) << "all batches have one shape";
  for (const auto& [name, tensor] : plain.engine->trained()) {
    EXPECT_TRUE(bitwise_equal(recorded.engine->trained().at(name), tensor)) << name;
  }
}

TEST(StepRecording, AGraphIsMadeForEachShapeAfterItsPlainStepsAndForAFewShapesOnly) {
  int graphs = 0;
  StepRecording recording(counting(graphs));
  const auto step = [](const StepInputs& inputs) {
    const at::Tensor sum = inputs.at("x").sum();
    return StepReport{.loss_value = sum, .grad_norm_value = sum, .skipped_value = at::zeros({})};
  };
  for (std::int64_t size = 1; size <= 10; ++size) {
    for (int visit = 0; visit < 5; ++visit) {
      const at::Tensor x = at::full({size}, visit + 1.0);
      EXPECT_EQ(recording.run({{"x", x}}, step).loss(), static_cast<double>(size * (visit + 1)));
    }
    EXPECT_EQ(graphs, std::min<std::int64_t>(size, 8));
    EXPECT_EQ(recording.recordings(), static_cast<std::size_t>(graphs));
  }
}

TEST(StepRecording, AReportKeepsItsValuesWhenLaterStepsArePlayedBack) {
  int graphs = 0;
  StepRecording recording(counting(graphs));
  const at::Tensor cell = at::zeros({});  // a graph writes to the same place each time
  const auto step = [&cell](const StepInputs& inputs) {
    cell.copy_(inputs.at("x"));
    return StepReport{.loss_value = cell, .grad_norm_value = cell, .skipped_value = cell};
  };
  std::vector<StepReport> reports;
  for (int visit = 0; visit < 6; ++visit) reports.push_back(recording.run({{"x", at::full({}, visit)}}, step));
  EXPECT_EQ(reports[4].loss(), 4.0);
  EXPECT_EQ(reports[5].loss(), 5.0);
}

TEST(StepRecording, ATaskInOnePartCannotBeTakenApart) {
  const auto task = make_task<int>([](std::int64_t) { return 0; }, [](const int&) { return at::zeros({}); });
  EXPECT_FALSE(task->is_in_two_parts());
  EXPECT_THAT(message_of<UsageError>([&] { static_cast<void>(task->prepare({})); }),
              HasSubstr("overrides is_in_two_parts(), prepare() and loss_of() together"));
}

TEST(CudaGraphs, OnIsRefusedWhereNoDeviceAnswersOrTheRunDoesNotAllowIt) {
  TrainOptions options = options_of(2);
  options.cuda_graph = CudaGraphs::on;
  toy::Model model;
  const FreezePlan plan = toy::plan_of(*model, [](const std::string&) { return true; });
  EXPECT_THAT(message_of<UsageError>([&] { Trainer trainer(model.ptr(), plan, options); }),
              HasSubstr("expected a CUDA device and a thaw built with -DTHAW_CUDA=ON, found 'cpu' is no CUDA device"));
  options.accumulation = 2;
  EXPECT_THAT(message_of<UsageError>([&] { options.validate(); }), HasSubstr("1 with cuda_graph on"));
  EXPECT_EQ(parse_cuda_graphs("auto"), CudaGraphs::automatic);
  EXPECT_THAT(message_of<UsageError>([] { static_cast<void>(parse_cuda_graphs("yes")); }), HasSubstr("auto, on, off"));
}

}  // namespace
}  // namespace thaw::step_recording_test
