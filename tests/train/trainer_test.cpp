// One optimizer step and the loop around it, on modules without a model in them.
#include "thaw/train/trainer.h"

#include "support/paths.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/tensor/compare.h"
#include "thaw/train/checkpoint.h"
#include "thaw/train/head.h"
#include "thaw/train/schedule.h"
#include "toy.h"

namespace thaw::trainer_test {
namespace {

using toy::Model;
using toy::Pair;

TrainOptions quiet_options() {
  return {.steps = 20,
          .batch_size = 4,
          .precision = Precision::fp32,
          .device = at::Device(at::kCPU),
          .optimizer = {.learning_rate = 1e-2, .weight_decay = 0.1},
          .grad_clip_norm = 0.5,
          .save_every = 0,
          .tensorboard = false,
          .quiet = true};
}

/// Records what the loop says.
struct Recorder : TrainObserver {
  void on_step(const StepReport& report) override {
    losses.push_back(report.loss());
    samples.insert(samples.end(), report.samples.begin(), report.samples.end());
  }
  void on_log(const LogRecord& record) override { logs.push_back(record); }
  void on_evaluation(std::int64_t step, const EvaluationResult& result) override {
    evaluations.emplace_back(step, result.loss);
  }
  void on_save(const SaveReport& report) override { saves.push_back(report.step); }
  std::vector<double> losses;
  std::vector<std::int64_t> samples;
  std::vector<LogRecord> logs;
  std::vector<std::pair<std::int64_t, double>> evaluations;
  std::vector<std::int64_t> saves;
};

/// Full fine-tuning as one would write it with LibTorch's operators, without thaw.
struct PlainLoop {
  explicit PlainLoop(Model model_) : model(std::move(model_)) {
    for (const at::Tensor& parameter : model->parameters()) {
      parameters.push_back(parameter);
      averages.push_back(at::zeros_like(parameter));
      squares.push_back(at::zeros_like(parameter));
      steps.push_back(at::zeros({}));
    }
  }
  double step(const Pair& pair, double rate, const TrainOptions& options) {
    const at::Tensor loss = at::mse_loss(model->forward(pair.x), pair.y);
    loss.backward();
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& parameter : parameters) gradients.push_back(parameter.grad());
    std::vector<at::Tensor> norms = at::_foreach_norm(gradients, 2);
    const at::Tensor total = at::linalg_vector_norm(at::stack(norms), 2);
    at::_foreach_mul_(gradients, (*options.grad_clip_norm / (total + 1e-6)).clamp_max(1.0));
    at::_foreach_add_(steps, 1);
    const TrainingPreset preset;
    at::_fused_adamw_(parameters, gradients, averages, squares, {}, steps, rate, preset.beta1, preset.beta2,
                      *options.optimizer.weight_decay, preset.eps, false, false);
    for (at::Tensor& parameter : parameters) parameter.mutable_grad().reset();
    return loss.item<double>();
  }
  Model model;
  std::vector<at::Tensor> parameters, averages, squares, steps;
};

TEST(Trainer, EverythingTrainableEqualsAPlainLoopBitForBit) {
  const TrainOptions options = quiet_options();
  Model ours;
  Model plain;
  Trainer trainer(ours.ptr(), toy::plan_of(*ours, toy::everything), options);
  const auto task = toy::task_for(ours);
  PlainLoop loop(plain);
  const Schedule schedule(options.schedule, TrainingPreset{}, *options.optimizer.learning_rate, options.steps);
  for (std::int64_t step = 0; step < options.steps; ++step) {
    const double expected =
        loop.step(toy::pair(step), *options.optimizer.learning_rate * schedule.factor(step), options);
    EXPECT_EQ(trainer.step(*task).loss(), expected) << "step " << step;
  }
  const auto now = toy::copy_of(*ours);
  for (const auto& [name, tensor] : toy::copy_of(*plain)) EXPECT_BITWISE_EQUAL(now.at(name), tensor) << name;
}

TEST(Trainer, LossFalls) {
  Model model;
  TrainOptions options = quiet_options();
  options.steps = 60;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  const auto recorder = std::make_shared<Recorder>();
  trainer.add_observer(recorder);
  // One batch again and again: it must be learnt.
  const auto task = make_task<Pair>([](std::int64_t) { return toy::pair(0); },
                                    [model](const Pair& p) mutable { return at::mse_loss(model->forward(p.x), p.y); });
  const FitResult result = trainer.fit(*task);
  EXPECT_EQ(result.step, 60);
  EXPECT_EQ(result.exit_code(), ExitCode::ok);
  EXPECT_LT(recorder->losses.back(), 0.5 * recorder->losses.front());
}

TEST(Trainer, AccumulatedMicroBatchesEqualOneLargeBatch) {
  TrainOptions options = quiet_options();
  Model large;
  Model small;
  Trainer at_once(large.ptr(), toy::plan_of(*large, toy::everything), options);
  options.accumulation = 4;
  Trainer in_parts(small.ptr(), toy::plan_of(*small, toy::everything), options);
  const auto joined = [](std::int64_t number) {
    std::vector<at::Tensor> x, y;
    for (std::int64_t part = 0; part < 4; ++part) {
      const Pair pair = toy::pair(4 * number + part);
      x.push_back(pair.x);
      y.push_back(pair.y);
    }
    return Pair{at::cat(x), at::cat(y)};
  };
  const auto whole =
      make_task<Pair>(joined, [large](const Pair& p) mutable { return at::mse_loss(large->forward(p.x), p.y); });
  const auto parts = toy::task_for(small);
  for (int step = 0; step < 5; ++step) {
    const double expected = at_once.step(*whole).loss();
    const StepReport report = in_parts.step(*parts);
    EXPECT_NEAR(report.loss(), expected, 1e-6);
    EXPECT_THAT(report.samples, testing::ElementsAre(4 * step, 4 * step + 1, 4 * step + 2, 4 * step + 3));
  }
  const auto expected = toy::copy_of(*large);
  for (const auto& [name, tensor] : toy::copy_of(*small)) {
    const auto result = compare_tensors(tensor, expected.at(name), {.absolute = 2e-5});
    EXPECT_TRUE(result) << name << result.message;
  }
}

/// Puts a value into the loss or one gradient element of a chosen step.
std::unique_ptr<TrainTask> poisoned(Model model, std::int64_t at_step, float poison, bool in_gradient) {
  return make_task<std::pair<std::int64_t, Pair>>(
      [](std::int64_t number) { return std::pair(number, toy::pair(number)); },
      [=](const std::pair<std::int64_t, Pair>& numbered) mutable {
        const at::Tensor loss = at::mse_loss(model->forward(numbered.second.x), numbered.second.y);
        if (numbered.first != at_step) return loss;
        if (!in_gradient) return loss * poison;
        // A finite loss whose gradient holds one bad element: d/dw sqrt(w - w) is infinite.
        const at::Tensor element = model->head->weight[0][0];
        return loss + at::where(at::ones({}, at::kBool), at::zeros({}), (element - element.detach()).sqrt() * poison) +
               0.0 * element;
      });
}

class PoisonedStep : public testing::TestWithParam<std::tuple<float, bool>> {};

TEST_P(PoisonedStep, IsSkippedAndLeavesEverythingBitForBit) {
  const auto [poison, in_gradient] = GetParam();
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.output = folder.path() / "run";
  options.ema = {.enable = true, .decay = 0.9};
  Model model(toy::ModelOptions{.batch_norm = true});
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::everything), options);
  const auto task = poisoned(model, 3, poison, in_gradient);
  for (int step = 0; step < 3; ++step) EXPECT_FALSE(trainer.step(*task).skipped());
  const Checkpoint before = read_checkpoint(trainer.save());
  const StepReport bad = trainer.step(*task);
  EXPECT_TRUE(bad.skipped());
  EXPECT_EQ(in_gradient, std::isfinite(bad.loss()));
  EXPECT_EQ(trainer.skipped_steps(), 1);
  const Checkpoint after = read_checkpoint(trainer.save());
  for (const auto& [name, tensor] : before.head.tensors)
    EXPECT_BITWISE_EQUAL(after.head.tensors.at(name), tensor) << name;
  for (const auto& [name, tensor] : before.optimizer) EXPECT_BITWISE_EQUAL(after.optimizer.at(name), tensor) << name;
  for (const auto& [name, tensor] : before.ema) EXPECT_BITWISE_EQUAL(after.ema.at(name), tensor) << name;
  EXPECT_FALSE(trainer.step(*task).skipped());
}

INSTANTIATE_TEST_SUITE_P(NanAndInf, PoisonedStep,
                         testing::Combine(testing::Values(std::numeric_limits<float>::quiet_NaN(),
                                                          std::numeric_limits<float>::infinity()),
                                          testing::Bool()));

TEST(Trainer, StopsAfterTheAllowedNumberOfSkippedStepsInARow) {
  TrainOptions options = quiet_options();
  options.max_consecutive_skips = 4;
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::everything), options);
  const auto before = toy::copy_of(*model);
  const auto task =
      make_task<Pair>([](std::int64_t n) { return toy::pair(n); },
                      [model](const Pair& p) mutable {
                        return at::mse_loss(model->forward(p.x), p.y) * std::numeric_limits<double>::quiet_NaN();
                      });
  const std::string message = toy::message_of<CheckFailed>([&] { trainer.fit(*task); });
  EXPECT_THAT(message, testing::AllOf(testing::HasSubstr("step 4"), testing::HasSubstr("4 steps in a row")));
  for (const auto& [name, tensor] : toy::copy_of(*model)) EXPECT_BITWISE_EQUAL(tensor, before.at(name));
}

TEST(Trainer, LossWithoutATrainableParameterIsRefused) {
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), quiet_options());
  const auto constant =
      make_task<Pair>([](std::int64_t n) { return toy::pair(n); }, [](const Pair& p) { return p.x.sum(); });
  EXPECT_THAT(toy::message_of<UsageError>([&] { trainer.step(*constant); }),
              testing::HasSubstr("no trainable parameter"));
  const auto vector = make_task<Pair>([](std::int64_t n) { return toy::pair(n); },
                                      [model](const Pair& p) mutable { return model->forward(p.x).sum(-1); });
  EXPECT_THAT(toy::message_of<UsageError>([&] { trainer.step(*vector); }), testing::HasSubstr("shape [4]"));
}

TEST(Trainer, PlanThatTrainsNothingIsRefusedBeforeAnythingIsWritten) {
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.output = folder.path() / "run";
  Model model;
  const std::string message = toy::message_of<UsageError>([&] {
    const Trainer trainer(model.ptr(), toy::plan_of(*model, [](const std::string&) { return false; }), options);
  });
  EXPECT_THAT(message, testing::HasSubstr("at least one trainable tensor"));
  EXPECT_FALSE(std::filesystem::exists(options.output / "plan.json"));
}

TEST(Trainer, PlanOfAnotherContentIsRefused) {
  Model model;
  FreezePlan plan = toy::plan_of(*model, toy::last_block);
  plan.parameters[0].digest = std::string(64, '0');
  const std::string message =
      toy::message_of<MismatchError>([&] { const Trainer t(model.ptr(), plan, quiet_options()); });
  EXPECT_THAT(message, testing::HasSubstr("embed.weight"));
}

TEST(Trainer, OptimizerHoldsEightBytesPerTrainableElementAndFourPerTensor) {
  Model model;
  const FreezePlan plan = toy::plan_of(*model, toy::last_block);
  const Trainer trainer(model.ptr(), plan, quiet_options());
  const auto tensors = static_cast<std::int64_t>(plan.names(ParameterClass::trainable).size());
  EXPECT_EQ(trainer.optimizer_bytes(), 8 * plan.elements(ParameterClass::trainable) + 4 * tensors);
}

TEST(Trainer, DatasetForAPlainModuleIsRefused) {
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), quiet_options());
  const auto dataset =
      LeRobotDataset::open(std::filesystem::path(thaw::test::source_dir()) / "tests/data/metaworld_tiny/v30_png");
  EXPECT_THAT(toy::message_of<UsageError>([&] { trainer.fit(dataset); }), testing::HasSubstr("made with a policy"));
}

TEST(Trainer, EvaluationRunsWithoutGradInEvalModeAndLeavesTraining) {
  TrainOptions options = quiet_options();
  options.steps = 4;
  options.eval_every = 2;
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  const auto recorder = std::make_shared<Recorder>();
  trainer.add_observer(recorder);
  const auto task = make_task<Pair>([](std::int64_t n) { return toy::pair(n); },
                                    [model](const Pair& p) mutable {
                                      EXPECT_TRUE(model->blocks[2]->is_training());
                                      EXPECT_FALSE(model->blocks[0]->is_training());
                                      return at::mse_loss(model->forward(p.x), p.y);
                                    },
                                    [model](std::int64_t step) mutable {
                                      EXPECT_FALSE(at::GradMode::is_enabled());
                                      EXPECT_FALSE(model->blocks[2]->is_training());
                                      return EvaluationResult{.loss = static_cast<double>(step), .samples = 1};
                                    });
  const FitResult result = trainer.fit(*task);
  EXPECT_THAT(recorder->evaluations,
              testing::ElementsAre(testing::Pair(0, 0.0), testing::Pair(2, 2.0), testing::Pair(4, 4.0)));
  ASSERT_TRUE(result.evaluation.has_value());
  EXPECT_EQ(result.evaluation->loss, 4.0);
}

TEST(Trainer, EvaluationSeesTheAverages) {
  TrainOptions options = quiet_options();
  options.ema = {.enable = true, .decay = 0.0};
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  const auto train = toy::task_for(model);
  trainer.step(*train);
  const at::Tensor trained = model->head->weight.detach().clone();
  at::Tensor seen;
  const auto look =
      make_task<Pair>([](std::int64_t n) { return toy::pair(n); }, [](const Pair& p) { return p.x.sum(); },
                      [&seen, model](std::int64_t) mutable {
                        seen = model->head->weight.detach().clone();
                        return EvaluationResult{};
                      });
  (void)trainer.evaluate(*look);
  EXPECT_BITWISE_EQUAL(seen, trained);  // decay 0: the average is the last weight
  EXPECT_BITWISE_EQUAL(model->head->weight.detach(), trained);
}

TEST(Trainer, LogWindowsAreMeansOverTheirSteps) {
  TrainOptions options = quiet_options();
  options.steps = 7;
  options.log_every = 3;
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::everything), options);
  const auto recorder = std::make_shared<Recorder>();
  trainer.add_observer(recorder);
  trainer.fit(*toy::task_for(model));
  ASSERT_EQ(recorder->logs.size(), 3U);
  EXPECT_NEAR(recorder->logs[0].loss, (recorder->losses[0] + recorder->losses[1] + recorder->losses[2]) / 3, 1e-7);
  EXPECT_EQ(recorder->logs[1].step, 6);
  EXPECT_EQ(recorder->logs[2].step, 7);
  EXPECT_NEAR(recorder->logs[2].loss, recorder->losses[6], 1e-7);
}

TEST(Trainer, SavesWhereAskedAndAtTheEndAndKeepsTheLast) {
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.steps = 11;
  options.save_every = 2;
  options.keep_last = 3;
  options.output = folder.path() / "run";
  options.config_text = "steps = 11\n";
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  const auto recorder = std::make_shared<Recorder>();
  trainer.add_observer(recorder);
  const FitResult result = trainer.fit(*toy::task_for(model));
  EXPECT_THAT(recorder->saves, testing::ElementsAre(2, 4, 6, 8, 10, 11));
  EXPECT_THAT(checkpoint_steps(options.output / "checkpoints"), testing::ElementsAre(8, 10, 11));
  EXPECT_EQ(result.checkpoint, options.output / "checkpoints" / "000011");
  EXPECT_EQ(toy::file_bytes(options.output / "config.toml"), "steps = 11\n");
  EXPECT_EQ(read_head_info(options.output / "heads/last/head.safetensors").step, 11);
  EXPECT_FALSE(read_json_lines(options.output / "metrics.jsonl").empty());
}

TEST(Trainer, FrozenTensorThatSomethingElseWritesToStopsTheSave) {
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.output = folder.path() / "run";
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  {
    const at::NoGradGuard no_grad;
    model->embed->weight.mutable_data_ptr<float>()[0] += 1.0F;
  }
  EXPECT_THAT(toy::message_of<CheckFailed>([&] { trainer.save(); }), testing::HasSubstr("embed.weight"));
  EXPECT_TRUE(checkpoint_steps(options.output / "checkpoints").empty());
}

TEST(Trainer, SaveThatFailsIsRetriedAndEndsTheRunAfterThree) {
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.steps = 10;
  options.save_every = 2;
  options.output = folder.path() / "run";
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  toy::overwrite(options.output / "checkpoints", "a file where the folder should be");
  EXPECT_THAT(toy::message_of<IoError>([&] { trainer.fit(*toy::task_for(model)); }),
              testing::HasSubstr("three failed saves"));
  EXPECT_EQ(trainer.steps_done(), 6);
}

TEST(Trainer, SaveThatFailsOnceDoesNotEndTheRun) {
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.steps = 6;
  options.save_every = 2;
  options.output = folder.path() / "run";
  Model model;
  Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  const std::filesystem::path checkpoints = options.output / "checkpoints";
  toy::overwrite(checkpoints, "in the way");
  struct Clearer : TrainObserver {
    explicit Clearer(std::filesystem::path path_) : path(std::move(path_)) {}
    void on_step(const StepReport& report) override {
      if (report.step == 3) std::filesystem::remove(path);
    }
    std::filesystem::path path;
  };
  trainer.add_observer(std::make_shared<Clearer>(checkpoints));
  trainer.fit(*toy::task_for(model));
  EXPECT_THAT(checkpoint_steps(checkpoints), testing::ElementsAre(4, 6));
}

TEST(Trainer, FolderInUseIsRefusedAndUntouched) {
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.output = folder.path() / "run";
  Model model;
  const Trainer first(model.ptr(), toy::plan_of(*model, toy::last_block), options);
  Model other;
  const std::string message = toy::message_of<IoError>(
      [&] { const Trainer second(other.ptr(), toy::plan_of(*other, toy::last_block), options); });
  EXPECT_THAT(message, testing::HasSubstr(options.output.string()));
  EXPECT_FALSE(std::filesystem::exists(options.output / "plan.json"));
}

TEST(Trainer, FolderThatHoldsARunIsNotOverwritten) {
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.steps = 1;
  options.output = folder.path() / "run";
  Model model;
  { Trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options).fit(*toy::task_for(model)); }
  Model other;
  const std::string message = toy::message_of<UsageError>(
      [&] { const Trainer again(other.ptr(), toy::plan_of(*other, toy::last_block), options); });
  EXPECT_THAT(message, testing::HasSubstr("a run that was begun there"));
}

TEST(Trainer, ResumingNothingIsRefused) {
  const toy::Folder folder;
  TrainOptions options = quiet_options();
  options.output = folder.path() / "nothing";
  options.resume = true;
  Model model;
  const std::string message = toy::message_of<UsageError>(
      [&] { const Trainer trainer(model.ptr(), toy::plan_of(*model, toy::last_block), options); });
  EXPECT_THAT(message, testing::HasSubstr("a run to resume"));
}

}  // namespace
}  // namespace thaw::trainer_test
