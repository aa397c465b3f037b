// thaw plan: what a freeze would train and cost, before anything is loaded.
#include <iostream>
#include <memory>

#include "command.h"
#include "flags.h"
#include "thaw/core/json.h"
#include "thaw/models/registry.h"

namespace thaw::cli {
namespace {

struct PlanFlags {
  std::string policy;
  FreezeFlags freeze;
};

void run_plan(const PlanFlags& flags, const Outcome& outcome) {
  const FreezePlan plan = flags.freeze.policy().resolve(layout_of_named_config(flags.policy));
  if (outcome.json) {
    std::cout << plan.to_json().dump(2) << '\n';
  } else {
    std::cout << plan.summary() << '\n';
  }
}

}  // namespace

void add_plan_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = add_subcommand(app, outcome, "plan",
                                     "shows what a freeze trains, where autograd starts and why, and what a step costs",
                                     "  thaw plan --policy smolvla --freeze 'vision=0,language=2,expert=all'\n"
                                     "  thaw plan --policy base --freeze 'language=all,freeze:@norms' --json");
  command
      ->add_option("--policy,--config", flags->policy, "a checkpoint folder, a config.json, or a named configuration")
      ->required();
  flags->freeze.add_to(*command);
  command->callback([flags, &outcome] { run_plan(*flags, outcome); });
}

}  // namespace thaw::cli
