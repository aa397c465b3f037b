// thaw prune: takes blocks out of a policy and writes the smaller checkpoint.
#include "thaw/study/prune.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iostream>
#include <memory>
#include <optional>

#include "command.h"
#include "flags.h"
#include "measure_flags.h"
#include "thaw/models/registry.h"

namespace thaw::cli {
namespace {

namespace fs = std::filesystem;

struct PruneFlags {
  fs::path policy;
  fs::path output;
  std::string method;
  std::string blocks;
  std::string similarity = "concatenated";
  bool literal_runs = false;
  PruneOptions options;
  MeasureFlags measures;
};

/// --preset and --blocks say the method by themselves.
PruningMethod method_of(const PruneFlags& flags) {
  const bool list = !flags.blocks.empty();
  const bool preset = !flags.options.preset.empty();
  if (list && preset) {
    throw UsageError(Problem{.where = "--blocks", .expected = "no --preset beside it", .found = "both"});
  }
  if (flags.method.empty()) {
    return list ? PruningMethod::list : preset ? PruningMethod::preset : PruningMethod::clp;
  }
  const PruningMethod method = parse_pruning_method(flags.method);
  const bool fits = (method == PruningMethod::list) == list && (method == PruningMethod::preset) == preset;
  if (fits) return method;
  throw UsageError(Problem{.where = "--method " + flags.method,
                           .expected = "--blocks with list, --preset with preset, neither with the others"});
}

PruneOptions prune_options(const PruneFlags& flags) {
  PruneOptions options = flags.options;
  options.method = method_of(flags);
  options.blocks = parse_numbers(flags.blocks, "--blocks");
  options.similarity = parse_similarity(flags.similarity);
  options.first_block_anchors = !flags.literal_runs;
  return options;
}

void run_prune(const PruneFlags& flags, const Outcome& outcome) {
  const PruneOptions options = prune_options(flags);
  const ModelLayout layout = layout_of_named_config(flags.policy.string());
  options.validate(layout);
  std::optional<MeasureReport> report;
  if (options.needs_measures()) report = measure_for_pruning(flags.policy, flags.measures, options, layout);
  const PruningChoice choice = choose_blocks(layout, options, report ? &*report : nullptr);
  const Json written = write_pruned(*load_policy(flags.policy), choice, flags.output);
  if (outcome.json) {
    std::cout << written.dump(2) << '\n';
  } else {
    std::cout << fmt::format("{} ({})\n", flags.output.string(), choice.why["method"].get<std::string>())
              << pruning_table(written);
  }
}

std::string preset_names() {
  std::vector<std::string> names;
  for (const PruningPreset& preset : pruning_presets()) names.push_back(preset.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

void add_prune_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<PruneFlags>();
  CLI::App* command =
      add_subcommand(app, outcome, "prune", "takes blocks out of a policy and writes the smaller checkpoint",
                     "  thaw prune --policy base --stack language --remove 6 --dataset data/ --output pruned\n"
                     "  thaw prune --policy base --preset clp-smolvla --output pruned\n"
                     "  thaw prune --policy base --stack language --blocks 1,2,5,6,14,15 --output pruned");
  command->add_option("--policy", flags->policy, "a LeRobot checkpoint folder")->required();
  command->add_option("--output", flags->output, "folder to write; must not exist")->required();
  command->add_option("--stack", flags->options.stack,
                      "stack that loses blocks, and with it those it is attended to from block by block");
  command->add_option("--method", flags->method,
                      "clp (the default), gate-probe or block-influence, which measure on --dataset; list; preset");
  command->add_option("--remove", flags->options.remove, "how many blocks a method takes out");
  command->add_option("--blocks", flags->blocks, "take out these, as in 1,2,5-7");
  command->add_option("--preset", flags->options.preset, "a published list: " + preset_names());
  command->add_option("--minimum-left", flags->options.minimum_left, "blocks of the stack that must stay");
  command->add_option("--similarity", flags->similarity,
                      "what clp ranks by: concatenated (the paper's), biased, unbiased, or trimmed (unbiased, without "
                      "massive dimensions)");
  command->add_option("--group", flags->options.group,
                      "tokens that decide: all, one of image, text, state, action, or mean over them");
  command->add_option("--threshold", flags->options.threshold,
                      "similarity from which on clp counts blocks as a run; falls until there are enough candidates");
  command->add_flag("--literal-runs", flags->literal_runs,
                    "let clp begin a run at a block that has a score, as the paper's text has it: block 1 then stays");
  flags->measures.add_to(*command);
  command->callback([flags, &outcome] { run_prune(*flags, outcome); });
}

}  // namespace thaw::cli
