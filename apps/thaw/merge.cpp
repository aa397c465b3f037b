// thaw merge: base + head as a complete LeRobot checkpoint.
#include "thaw/train/merge.h"

#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "command.h"
#include "flags.h"
#include "thaw/core/json.h"
#include "thaw/models/registry.h"
#include "thaw/train/peft.h"

namespace thaw::cli {
namespace {

struct MergeFlags {
  std::filesystem::path run;
  std::string policy;
  std::filesystem::path output;
  bool peft = false;
};

MergeReport merge(const MergeFlags& flags) {
  const std::string base = base_of_run(flags.run, flags.policy);
  const std::filesystem::path head = head_of_run(flags.run);
  if (merges_file_by_file(base, head)) return merge_head(base, head, flags.output);
  return merge_head(*load_policy(base), head, flags.output);
}

void run_export(const MergeFlags& flags, const Outcome& outcome) {
  const PeftReport report =
      write_peft_adapter(base_of_run(flags.run, flags.policy), head_of_run(flags.run), flags.output);
  if (outcome.json) {
    std::cout << Json{{"output", flags.output.string()},
                      {"adapters", report.adapters},
                      {"modules_to_save", report.modules},
                      {"bytes", report.bytes}}
                     .dump(2)
              << '\n';
    return;
  }
  std::cout << fmt::format("{}: {} adapters, {} modules at full rank, {} bytes\n", flags.output.string(),
                           report.adapters, report.modules, grouped(static_cast<std::int64_t>(report.bytes)));
}

void run_merge(const MergeFlags& flags, const Outcome& outcome) {
  const MergeReport report = merge(flags);
  if (outcome.json) {
    std::cout << Json{{"output", flags.output.string()},
                      {"replaced_tensors", report.replaced_tensors},
                      {"kept_tensors", report.kept_tensors},
                      {"bytes", report.bytes}}
                     .dump(2)
              << '\n';
    return;
  }
  std::cout << fmt::format("{}: {} tensors of the head, {} of the base, {} bytes\n", flags.output.string(),
                           report.replaced_tensors, report.kept_tensors,
                           grouped(static_cast<std::int64_t>(report.bytes)));
}

}  // namespace

void add_merge_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<MergeFlags>();
  CLI::App* command =
      add_subcommand(app, outcome, "merge", "writes base + head as a LeRobot checkpoint that from_pretrained loads",
                     "  thaw merge runs/drawer --output merged\n"
                     "  thaw merge runs/drawer/heads/last/head.safetensors --policy base --output merged\n"
                     "  thaw merge runs/drawer --peft --output adapter");
  command->add_option("run", flags->run, "run folder, a head.safetensors, or a folder with an adapter of PEFT")
      ->required();
  command->add_option("--policy", flags->policy, "base checkpoint, when it is not where the run found it");
  command->add_option("--output", flags->output, "folder to write; must not exist")->required();
  command->add_flag("--peft", flags->peft, "write the run's adapters for PEFT instead, nothing merged");
  command->callback([flags, &outcome] { flags->peft ? run_export(*flags, outcome) : run_merge(*flags, outcome); });
}

}  // namespace thaw::cli
