// thaw merge: base + head as a complete LeRobot checkpoint.
#include "thaw/train/merge.h"

#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "command.h"
#include "flags.h"
#include "thaw/core/json.h"
#include "thaw/models/registry.h"

namespace thaw::cli {
namespace {

struct MergeFlags {
  std::filesystem::path run;
  std::string policy;
  std::filesystem::path output;
};

MergeReport merge(const MergeFlags& flags) {
  const std::string base = base_of_run(flags.run, flags.policy);
  const std::filesystem::path head = head_of_run(flags.run);
  if (merges_file_by_file(base, head)) return merge_head(base, head, flags.output);
  return merge_head(*load_policy(base), head, flags.output);
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
                     "  thaw merge runs/drawer/heads/last/head.safetensors --policy base --output merged");
  command->add_option("run", flags->run, "run folder, or a head.safetensors")->required();
  command->add_option("--policy", flags->policy, "base checkpoint, when it is not where the run found it");
  command->add_option("--output", flags->output, "folder to write; must not exist")->required();
  command->callback([flags, &outcome] { run_merge(*flags, outcome); });
}

}  // namespace thaw::cli
