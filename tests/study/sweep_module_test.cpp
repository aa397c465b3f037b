#include <gmock/gmock.h>

#include "study/studies.h"
#include "thaw/core/error.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::sweep_module_test {
namespace {

using testing::HasSubstr;
using toy::message_of;

struct Sweep {
  explicit Sweep(toy::Model model_, const SweepGrid& grid = toy::small_grid(), bool resume = false)
      : model(model_),
        subject(toy::sweep_toy(model)),
        plan(sweep_plan(*subject, grid)),
        folder(place.path() / "sweep", subject->setting(), resume) {}

  toy::Folder place;
  toy::Model model;
  std::unique_ptr<SweepSubject> subject;
  SweepPlan plan;
  SweepFolder folder;
};

TEST(SweepModule, EveryPointEqualsATrainingOfItsOwnBitForBit) {
  Sweep sweep(toy::sweep_model());
  ASSERT_TRUE(run_sweep(sweep.plan, *sweep.subject, sweep.folder, {.keep_heads = true}));
  ASSERT_EQ(sweep.folder.results().size(), 6U);
  for (const SweepResult& result : sweep.folder.results()) {
    ASSERT_FALSE(result.failed()) << result.error;
    const toy::Model own = toy::sweep_model();
    const FreezePlan plan =
        LayerFreezePolicy{}.freeze("*").train("head.*").last("blocks", result.point.blocks.at("blocks")).resolve(*own);
    TrainOptions options = toy::sweep_options();
    options.seed = result.point.seed;
    Trainer trainer(own.ptr(), plan, options);
    const auto task = toy::sweep_task(own, result.point.seed);
    const FitResult fit = trainer.fit(*task);
    EXPECT_EQ(result.held_out->loss, fit.evaluation->loss) << result.point.freeze;
    EXPECT_EQ(result.training_loss, fit.loss) << result.point.freeze;
    const auto weights = toy::copy_of(*own);
    for (const auto& [name, tensor] : read_safetensors(sweep.folder.head(result.point.id) / "head.safetensors")) {
      EXPECT_BITWISE_EQUAL(tensor, weights.at(name)) << name;
    }
  }
}

TEST(SweepModule, TheBaseIsBitForBitAsItWasAfterwardsWithItsGradFlagsAndMode) {
  toy::Model model = toy::sweep_model();
  model->embed->weight.set_requires_grad(false);
  model->eval();
  const auto before = toy::copy_of(*model);
  {
    Sweep sweep(model);
    ASSERT_TRUE(run_sweep(sweep.plan, *sweep.subject, sweep.folder, {}));
  }
  for (const auto& [name, tensor] : toy::copy_of(*model)) EXPECT_BITWISE_EQUAL(tensor, before.at(name)) << name;
  EXPECT_FALSE(model->embed->weight.requires_grad());
  EXPECT_TRUE(model->head->weight.requires_grad());
  EXPECT_FALSE(model->head->is_training());
}

TEST(SweepModule, RunningStatisticsComeBackAsWell) {
  const toy::Model model(toy::ModelOptions{.blocks = 4, .batch_norm = true});
  const auto before = toy::copy_of(*model);
  SweepGrid grid = toy::small_grid();
  grid.base = LayerFreezePolicy{}.freeze("*").train("head.*").train("batch_norm.*");
  Sweep sweep(model, grid);
  ASSERT_TRUE(run_sweep(sweep.plan, *sweep.subject, sweep.folder, {}));
  for (const SweepResult& result : sweep.folder.results()) EXPECT_FALSE(result.failed()) << result.error;
  for (const auto& [name, tensor] : toy::copy_of(*model)) EXPECT_BITWISE_EQUAL(tensor, before.at(name)) << name;
}

TEST(SweepModule, APointThatDivergesHasAnErrorAndTheOthersAreAsWithoutIt) {
  SweepGrid grid = toy::small_grid();
  Sweep calm(toy::sweep_model(), grid);
  ASSERT_TRUE(run_sweep(calm.plan, *calm.subject, calm.folder, {}));

  grid.learning_rates = {1e-2, 1e30};
  Sweep mixed(toy::sweep_model(), grid);
  ASSERT_TRUE(run_sweep(mixed.plan, *mixed.subject, mixed.folder, {}));
  ASSERT_EQ(mixed.folder.results().size(), 12U);
  std::size_t failed = 0;
  for (const SweepResult& result : mixed.folder.results()) {
    if (result.point.learning_rate > 1.0) {
      failed += result.failed() ? 1U : 0U;
      continue;
    }
    EXPECT_EQ(result.held_out->loss, find_result(calm.folder.results(), result.point.id)->held_out->loss);
  }
  EXPECT_GT(failed, 0U);
}

TEST(SweepModule, OneThatIsStoppedAnywhereAndResumedEndsWithTheSameLines) {
  Sweep calm(toy::sweep_model());
  ASSERT_TRUE(run_sweep(calm.plan, *calm.subject, calm.folder, {}));
  const std::vector<std::string> lines = toy::lines_without_times(calm.folder.file());
  ASSERT_EQ(lines.size(), 6U);

  const toy::Folder place;
  const auto subject = toy::sweep_toy(toy::sweep_model());
  const SweepPlan plan = sweep_plan(*subject, toy::small_grid());
  for (bool resume = false, ended = false; !ended; resume = true) {
    SweepFolder folder(place.path() / "sweep", subject->setting(), resume);
    const PointRunner all = points_in_turn(plan, *subject, place.path() / "heads", {});
    const PointRunner one = [&all](std::span<const SweepPoint> points, const auto& on_result) {
      return all(points.first(1), on_result) && points.size() == 1;
    };
    ended = run_sweep(plan, folder, one);
  }
  EXPECT_EQ(toy::lines_without_times(place.path() / "sweep/results.jsonl"), lines);
}

TEST(SweepModule, HeadsAreRemovedUnlessTheyAreKept) {
  Sweep sweep(toy::sweep_model());
  SweepRunOptions options;
  options.evaluator.command = R"(test -s "$THAW_HEAD" && echo '{"head": true}')";
  ASSERT_TRUE(run_sweep(sweep.plan, *sweep.subject, sweep.folder, options));
  for (const SweepResult& result : sweep.folder.results()) {
    EXPECT_EQ(result.evaluator, (Json{{"head", true}})) << result.error;
    EXPECT_GT(*result.head_bytes, 0);
  }
  EXPECT_FALSE(std::filesystem::exists(sweep.folder.root() / "heads"));
}

TEST(SweepModule, AnEvaluatorThatFailsForOnePointLeavesTheOthersTheirFigures) {
  Sweep sweep(toy::sweep_model());
  SweepRunOptions options;
  options.evaluator.command = R"(case "$THAW_POINT" in *'"blocks=1"'*) exit 3;; *) echo '{"success": 1}';; esac)";
  ASSERT_TRUE(run_sweep(sweep.plan, *sweep.subject, sweep.folder, options));
  for (const SweepResult& result : sweep.folder.results()) {
    EXPECT_EQ(result.failed(), result.point.freeze == "blocks=1") << result.point.freeze;
    EXPECT_TRUE(result.held_out) << "the training itself has its figures";
  }
}

TEST(SweepModule, WorkersGiveTheSameLinesAndOneThatDiesFailsOnlyWhatItWasAt) {
  Sweep calm(toy::sweep_model());
  ASSERT_TRUE(run_sweep(calm.plan, *calm.subject, calm.folder, {}));
  // A process of this kind stands in for a worker: it has the results at hand, and dies at the freeze blocks=1.
  const std::filesystem::path file = calm.folder.file();
  const std::string script = R"(
    folder=$(dirname "$1")
    for id in $(grep -o '"id":"[0-9a-f]*"' "$1" | cut -d'"' -f4); do
      line=$(grep "\"id\":\"$id\"" "$2")
      case "$line" in *'"freeze":"blocks=1"'*) kill -9 $$;; esac
      printf '%s\n' "$line" > "$folder/$id.tmp" && mv "$folder/$id.tmp" "$folder/$id.json"
    done)";
  Sweep jobs(toy::sweep_model());
  const SweepJobs how{.jobs = 2, .folder = jobs.folder.root() / "jobs", .command = [&](const auto& points) {
                        return std::vector<std::string>{"/bin/sh", "-c", script, "sh", points.string(), file.string()};
                      }};
  ASSERT_TRUE(run_sweep(jobs.plan, jobs.folder, points_in_processes(how)));
  const std::vector<SweepResult> results = jobs.folder.results();
  ASSERT_EQ(results.size(), 6U);
  for (std::size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].point.id, calm.folder.results()[i].point.id);
    if (results[i].point.freeze == "blocks=1") {
      EXPECT_THAT(results[i].error, HasSubstr("the process that trained it was ended by signal 9"));
    } else {
      EXPECT_EQ(results[i].to_json(), calm.folder.results()[i].to_json());
    }
  }
  EXPECT_FALSE(std::filesystem::exists(how.folder));
}

TEST(SweepModule, TheSettingTellsBaseAndOptionsApart) {
  const Json first = toy::sweep_toy(toy::sweep_model())->setting();
  EXPECT_EQ(first, toy::sweep_toy(toy::sweep_model(), /*steps=*/9)->setting()) << "a point has its own steps";
  toy::Model other = toy::sweep_model();
  {
    const at::NoGradGuard no_grad;
    other->head->bias[0] += 1;
  }
  EXPECT_NE(first["base"], toy::sweep_toy(other)->setting()["base"]);
}

}  // namespace
}  // namespace thaw::sweep_module_test
