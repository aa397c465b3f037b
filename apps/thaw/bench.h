// What the parts of `thaw bench` share.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "command.h"
#include "thaw/core/json.h"

namespace thaw::cli {

void add_bench_step_command(CLI::App& bench, Outcome& outcome);
void add_bench_sample_command(CLI::App& bench, Outcome& outcome);
void add_bench_data_command(CLI::App& bench, Outcome& outcome);
void add_bench_cache_command(CLI::App& bench, Outcome& outcome);

/// --rounds, --interactive, --threads.
struct RoundFlags {
  std::int64_t rounds = 5;
  int threads = 0;
  bool interactive = false;
  void add_to(CLI::App& command);
  /// Sets LibTorch's threads. @throws UsageError for numbers out of range
  void apply() const;
};

/// Runs `round` once to warm up and then flags.rounds times: {"facts": …, "rounds": [ … ], "median": { … }}.
///
/// Interactive: prints `facts` and then one line of JSON for each line read from stdin, "go" for a round (none is run
/// unasked), other words as in `commands`; ends with stdin. So a driver can let several processes take turns.
/// @throws UsageError for a word that is not known
[[nodiscard]] Json run_rounds(const RoundFlags& flags, const Json& facts, const std::function<Json()>& round,
                              const std::map<std::string, std::function<Json()>>& commands = {});

/// The document of run_rounds to stdout: as it is, or the medians as lines. Nothing when it was interactive.
void print_rounds(const Json& document, const RoundFlags& flags, bool json);

}  // namespace thaw::cli
