// thaw verify: proof that a run froze what it said and trained what it said.
#include "thaw/train/verify.h"

#include <iostream>
#include <memory>

#include "command.h"
#include "flags.h"
#include "thaw/core/json.h"
#include "thaw/models/registry.h"
#include "thaw/train/head.h"

namespace thaw::cli {
namespace {

struct VerifyFlags {
  std::filesystem::path run;
  std::string policy;
};

ExitCode run_verify(const VerifyFlags& flags, const Outcome& outcome) {
  const std::string base = base_of_run(flags.run, flags.policy);
  std::shared_ptr<Policy> policy = load_policy(base);
  const std::filesystem::path head_file = flags.run / "heads/last/head.safetensors";
  if (std::filesystem::exists(head_file)) {
    const HeadInfo head = read_head_info(head_file);
    if (!head.adapters.empty()) policy = policy->with_adapters(head.adapters, head.adapter_seed);
  }
  const VerifyReport report = verify_run(flags.run, *policy->module());
  if (outcome.json) {
    std::cout << report.to_json().dump(2) << '\n';
  } else {
    std::cout << report.text() << '\n';
  }
  return report.passed() ? ExitCode::ok : ExitCode::check_failed;
}

}  // namespace

void add_verify_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<VerifyFlags>();
  CLI::App* command = add_subcommand(app, outcome, "verify",
                                     "proves that what a run froze equals its base, and that what it trained moved",
                                     "  thaw verify runs/drawer");
  command->add_option("run", flags->run, "run folder")->required();
  command->add_option("--policy", flags->policy, "base checkpoint, when it is not where the run found it");
  command->callback([flags, &outcome] { outcome.code = run_verify(*flags, outcome); });
}

}  // namespace thaw::cli
