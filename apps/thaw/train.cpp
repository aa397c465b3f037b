// thaw train: fine-tunes what the freeze plan lets train, on a LeRobot dataset.
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "command.h"
#include "thaw/core/json.h"
#include "thaw/train/trainer.h"
#include "train_flags.h"

namespace thaw::cli {
namespace {

Json as_json(const FitResult& result, const TrainOptions& options) {
  Json json{{"output", options.output.string()},
            {"step", result.step},
            {"skipped_steps", result.skipped_steps},
            {"seconds", result.seconds},
            {"checkpoint", result.checkpoint.string()}};
  if (result.loss) json["loss"] = *result.loss;
  if (result.evaluation) {
    json["held_out"] = Json{{"loss", result.evaluation->loss}, {"samples", result.evaluation->samples}};
    for (const auto& [name, value] : result.evaluation->metrics) json["held_out"][name] = value;
  }
  return json;
}

void print_result(const FitResult& result, const TrainOptions& options) {
  if (result.evaluation) {
    std::string line = fmt::format("held-out episodes: loss {:.4f}", result.evaluation->loss);
    for (const auto& [name, value] : result.evaluation->metrics) line += fmt::format(", {} {:.4g}", name, value);
    std::cout << line << '\n';
  }
  std::cout << fmt::format("{} steps in {:.1f} s, {} skipped; checkpoint {}, head {}\n", result.step, result.seconds,
                           result.skipped_steps, result.checkpoint.string(),
                           (options.output / "heads/last/head.safetensors").string());
}

void run_train(const TrainFlags& flags, const CLI::App& command, Outcome& outcome) {
  TrainOptions options = train_options(flags, command, outcome);
  const auto folder = std::make_shared<RunFolder>(options.output, options.resume);
  const LeRobotDataset dataset = open_dataset(flags);
  const std::shared_ptr<Policy> policy = open_policy(flags, dataset);
  options.prefix.weights_return = false;  // nobody uses the policy behind the training
  options.freeze_schedule = freeze_schedule(flags, *policy);
  const FreezePlan plan = freeze_plan(flags, *policy, options.freeze_schedule.get());
  if (!options.quiet) std::cout << plan.summary() << '\n';
  Trainer trainer(policy, plan, options, folder);
  const FitResult result = trainer.fit(dataset);
  outcome.code = result.exit_code();
  if (outcome.json) {
    std::cout << as_json(result, options).dump(2) << '\n';
  } else {
    print_result(result, options);
  }
}

}  // namespace

void add_train_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = add_subcommand(app, outcome, "train", "fine-tunes a policy on a LeRobot dataset",
                                     "  thaw train --policy base --dataset data/ --freeze "
                                     "'vision=0,language=2,expert=all' --steps 20000 --output runs/drawer\n"
                                     "  thaw train --resume runs/drawer --steps 40000");
  add_training_flags(*command, *flags);
  command->callback([flags, command, &outcome] { run_train(*flags, *command, outcome); });
}

}  // namespace thaw::cli
