// k steps, save, k steps == load, k steps: losses, samples, weights, moments, averages and counters, bit for bit.
#include "thaw/core/error.h"
#include "thaw/tensor/compare.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/trainer.h"
#include "toy.h"

namespace thaw::resume_test {
namespace {

using toy::Model;
using toy::Pair;

struct Case {
  std::string name;
  toy::ModelOptions model;
  bool (*trains)(const std::string&) = toy::last_block;
  std::int64_t accumulation = 1;
  Precision precision = Precision::fp32;
  bool ema = false;
  std::int64_t bad_step = -1;       ///< its loss is NaN
  std::vector<std::int64_t> stops;  ///< steps at which the run is ended and resumed
};

void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

bool sandwich(const std::string& name) { return name.starts_with("blocks.1.") || name.starts_with("embed."); }
bool no_norms(const std::string& name) { return name.find("norm") == std::string::npos; }

TrainOptions options_of(const Case& c, const std::filesystem::path& output, std::int64_t steps) {
  return {.steps = steps,
          .batch_size = 4,
          .accumulation = c.accumulation,
          .precision = c.precision,
          .device = at::Device(at::kCPU),
          .optimizer = {.learning_rate = 1e-2, .weight_decay = 0.1},
          .grad_clip_norm = 0.5,
          .schedule = {.warmup_steps = 2, .decay_steps = 12, .auto_scale = false},
          .ema = {.enable = c.ema},
          .output = output,
          .save_every = 0,
          .tensorboard = false,
          .quiet = true};
}

std::unique_ptr<TrainTask> task_of(const Case& c, Model model) {
  const std::int64_t bad = c.bad_step * c.accumulation;
  return make_task<std::pair<std::int64_t, Pair>>(
      [](std::int64_t number) { return std::pair(number, toy::pair(number)); },
      [model, bad](const std::pair<std::int64_t, Pair>& numbered) mutable {
        const at::Tensor loss = at::mse_loss(model->forward(numbered.second.x), numbered.second.y);
        return numbered.first == bad ? loss * std::numeric_limits<double>::quiet_NaN() : loss;
      });
}

struct Recorder : TrainObserver {
  void on_step(const StepReport& report) override {
    losses.push_back(report.loss_value.clone());
    norms.push_back(report.grad_norm_value.clone());
    samples.insert(samples.end(), report.samples.begin(), report.samples.end());
  }
  std::vector<at::Tensor> losses, norms;
  std::vector<std::int64_t> samples;
};

/// Runs up to `steps` in a fresh module, as a new process would.
void run(const Case& c, const std::filesystem::path& output, std::int64_t steps, bool resume,
         const std::shared_ptr<Recorder>& recorder) {
  Model model(c.model);
  TrainOptions options = options_of(c, output, steps);
  options.resume = resume;
  Trainer trainer(model.ptr(), toy::plan_of(*model, c.trains), options);
  trainer.add_observer(recorder);
  trainer.fit(*task_of(c, model));
}

void expect_equal(const std::map<std::string, at::Tensor>& actual, const std::map<std::string, at::Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_BITWISE_EQUAL(actual.at(name), tensor) << name;
}

class Resume : public testing::TestWithParam<Case> {};

TEST_P(Resume, GoesOnBitForBit) {
  constexpr std::int64_t kSteps = 9;
  const Case& c = GetParam();
  const toy::Folder folder;
  const auto whole = std::make_shared<Recorder>();
  run(c, folder.path() / "whole", kSteps, false, whole);
  const auto parts = std::make_shared<Recorder>();
  bool resume = false;
  for (const std::int64_t stop : c.stops) {
    run(c, folder.path() / "parts", stop, resume, parts);
    resume = true;
  }
  run(c, folder.path() / "parts", kSteps, true, parts);

  ASSERT_EQ(parts->losses.size(), whole->losses.size());
  for (std::size_t i = 0; i < whole->losses.size(); ++i) {
    EXPECT_BITWISE_EQUAL(parts->losses[i], whole->losses[i]) << "loss of step " << i;
    EXPECT_BITWISE_EQUAL(parts->norms[i], whole->norms[i]) << "norm of step " << i;
  }
  EXPECT_EQ(parts->samples, whole->samples);
  const Checkpoint expected = read_checkpoint(folder.path() / "whole/checkpoints/000009");
  const Checkpoint actual = read_checkpoint(folder.path() / "parts/checkpoints/000009");
  expect_equal(actual.head.tensors, expected.head.tensors);
  expect_equal(actual.optimizer, expected.optimizer);
  expect_equal(actual.ema, expected.ema);
  EXPECT_EQ(actual.state.to_json(), expected.state.to_json());
  EXPECT_EQ(actual.state.guard.skipped, c.bad_step >= 0 ? 1 : 0);
  EXPECT_EQ(toy::file_bytes(folder.path() / "parts/heads/last/head.safetensors"),
            toy::file_bytes(folder.path() / "whole/heads/last/head.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Matrix, Resume,
                         testing::Values(Case{.name = "LastBlock", .stops = {4}},
                                         Case{.name = "AfterTheFirstStep", .stops = {1}},
                                         Case{.name = "ResumeOfAResume", .stops = {2, 3, 7}},
                                         Case{.name = "Everything", .trains = toy::everything, .stops = {5}},
                                         Case{.name = "Sandwich", .trains = sandwich, .stops = {5}},
                                         Case{.name = "NoNorms", .trains = no_norms, .stops = {5}},
                                         Case{.name = "Accumulation", .accumulation = 3, .stops = {4}},
                                         Case{.name = "Averages", .ema = true, .stops = {4}},
                                         Case{.name = "SkippedBefore", .ema = true, .bad_step = 2, .stops = {4}},
                                         Case{.name = "SkippedAfter", .bad_step = 6, .stops = {4}},
                                         Case{.name = "Dropout", .model = {.dropout = 0.3}, .stops = {4}},
                                         Case{.name = "RunningStatistics",
                                              .model = {.batch_norm = true},
                                              .trains = toy::everything,
                                              .stops = {4}},
                                         Case{.name = "HalfBrain", .precision = Precision::bf16, .stops = {4}}),
                         [](const auto& tested) { return tested.param.name; });

/// A run of four steps in `folder`/run.
std::filesystem::path short_run(const std::filesystem::path& folder) {
  run({}, folder / "run", 4, false, std::make_shared<Recorder>());
  return folder / "run";
}

TEST(ResumeWarning, WhatMakesTheRunAnotherIsSaid) {
  const toy::Folder folder;
  TrainOptions options = options_of({}, short_run(folder.path()), 5);
  options.resume = true;
  options.seed += 1;
  options.draws = 4;
  options.image_transforms.enable = true;
  options.image_transforms.views = 2;
  Model model;
  testing::internal::CaptureStderr();
  const Trainer trainer(model.ptr(), toy::plan_of(*model, Case{}.trains), options);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, testing::HasSubstr(fmt::format("seed was {} and is {}", options.seed - 1, options.seed)));
  EXPECT_THAT(said, testing::HasSubstr("draws was 1 and is 4"));
  EXPECT_THAT(said, testing::HasSubstr("image transforms was none and is 2 views of {\"max_num_transforms\":3"));
  EXPECT_THAT(said, testing::Not(testing::HasSubstr("batch_size was")));
}

std::string resume_refusal(const std::filesystem::path& output, const Model& model,
                           bool (*trains)(const std::string&)) {
  TrainOptions options = options_of({}, output, 8);
  options.resume = true;
  return toy::message_of<MismatchError>(
      [&] { const Trainer trainer(model.ptr(), toy::plan_of(*model, trains), options); });
}

TEST(ResumeRefusal, AnotherPlanIsRefusedWithTheDifferences) {
  const toy::Folder folder;
  const auto output = short_run(folder.path());
  const std::string message = resume_refusal(
      output, Model(), [](const std::string& name) { return toy::last_block(name) || name == "embed.bias"; });
  EXPECT_THAT(message, testing::AllOf(testing::HasSubstr("embed.bias was frozen and is trainable"),
                                      testing::Not(testing::HasSubstr("embed.weight"))));
}

TEST(ResumeRefusal, AnotherBaseIsRefusedWithTheTensor) {
  const toy::Folder folder;
  const auto output = short_run(folder.path());
  Model other;
  {
    const at::NoGradGuard no_grad;
    other->blocks[1]->as<toy::Block>()->up->bias.add_(1.0);
  }
  EXPECT_THAT(resume_refusal(output, other, toy::last_block),
              testing::AllOf(testing::HasSubstr("blocks.1.up.bias has another content"), testing::HasSubstr("base")));
}

TEST(ResumeRefusal, AnotherShapeIsRefused) {
  const toy::Folder folder;
  const auto output = short_run(folder.path());
  EXPECT_THAT(resume_refusal(output, Model(toy::ModelOptions{.outputs = 2}), toy::last_block),
              testing::HasSubstr("head.weight had shape [3, 6] and has [2, 6]"));
}

TEST(ResumeFallback, DamagedNewestCheckpointIsPassedOverAndSetAside) {
  const toy::Folder folder;
  const Case c{.name = "", .stops = {}};
  const auto whole = std::make_shared<Recorder>();
  run(c, folder.path() / "whole", 9, false, whole);
  const auto output = folder.path() / "run";
  const auto recorder = std::make_shared<Recorder>();
  run(c, output, 3, false, recorder);
  run(c, output, 6, true, recorder);
  const auto damaged = output / "checkpoints/000006/optimizer.safetensors";
  std::string bytes = toy::file_bytes(damaged);
  bytes[bytes.size() / 2] ^= 1;
  toy::overwrite(damaged, bytes);
  const auto resumed = std::make_shared<Recorder>();
  run(c, output, 9, true, resumed);
  ASSERT_EQ(resumed->losses.size(), 6U);  // from step 3, not 6
  EXPECT_BITWISE_EQUAL(resumed->losses.back(), whole->losses.back());
  EXPECT_THAT(checkpoint_steps(output / "checkpoints"), testing::ElementsAre(3, 9));
  EXPECT_TRUE(std::filesystem::exists(output / "checkpoints/bad-000006"));
}

TEST(ResumeFallback, RunKilledBeforeItsFirstSaveBeginsAgain) {
  const toy::Folder folder;
  const auto output = short_run(folder.path());
  std::filesystem::remove_all(output / "checkpoints");
  const auto recorder = std::make_shared<Recorder>();
  run({}, output, 4, true, recorder);
  EXPECT_EQ(recorder->losses.size(), 4U);
}

TEST(ResumeFallback, RunWithOnlyDamagedCheckpointsIsRefused) {
  const toy::Folder folder;
  const auto output = short_run(folder.path());
  std::filesystem::remove(output / "checkpoints/000004/state.json");
  Model model;
  TrainOptions options = options_of({}, output, 8);
  options.resume = true;
  EXPECT_THAT(toy::message_of<FormatError>(
                  [&] { const Trainer t(model.ptr(), toy::plan_of(*model, toy::last_block), options); }),
              testing::HasSubstr("1 bad ones"));
}

}  // namespace
}  // namespace thaw::resume_test
