// The subcommands: each adds its flags to the command line and, when chosen, does its work and leaves an exit code.
#pragma once

#include <CLI/CLI.hpp>

#include "thaw/core/error.h"

namespace thaw::cli {

/// What the chosen subcommand ended with.
struct Outcome {
  ExitCode code = ExitCode::ok;
  bool json = false;  ///< --json: one JSON document on stdout, errors included
};

void add_init_command(CLI::App& app, Outcome& outcome);
void add_plan_command(CLI::App& app, Outcome& outcome);
void add_train_command(CLI::App& app, Outcome& outcome);
void add_sweep_command(CLI::App& app, Outcome& outcome);
void add_prune_command(CLI::App& app, Outcome& outcome);
void add_cache_command(CLI::App& app, Outcome& outcome);
void add_verify_command(CLI::App& app, Outcome& outcome);
void add_merge_command(CLI::App& app, Outcome& outcome);
void add_sample_command(CLI::App& app, Outcome& outcome);
void add_inspect_command(CLI::App& app, Outcome& outcome);
void add_bench_command(CLI::App& app, Outcome& outcome);

}  // namespace thaw::cli
