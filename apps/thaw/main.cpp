// thaw: fine-tunes Vision-Language-Action policies by training their last blocks.
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "command.h"
#include "config_file.h"
#include "thaw/core/json.h"
#include "thaw/core/names.h"
#include "thaw/tensor/heap.h"

namespace {

using thaw::ExitCode;
using thaw::cli::Outcome;

constexpr const char* kFooter = R"(Examples:
  thaw init  --config smolvla_tiny --dataset data/ --output base
  thaw plan  --policy base --freeze 'vision=0,language=2,expert=all'
  thaw train --policy base --dataset data/ --freeze 'language=2' --steps 2000 --output runs/drawer
  thaw verify runs/drawer
  thaw merge runs/drawer --output merged

Exit codes: 0 success; 1 a check found a difference, or training diverged; 2 unusable input, flag or environment
(nothing was written); 130 / 143 stopped by SIGINT / SIGTERM after saving.)";

int fail(const Outcome& outcome, const std::string& message, ExitCode code) {
  std::cerr << "thaw: " << message << '\n';
  if (outcome.json) std::cout << thaw::Json{{"error", message}, {"exit_code", static_cast<int>(code)}}.dump(2) << '\n';
  return static_cast<int>(code);
}

/// The subcommand the user chose, of a subcommand if need be; the app itself when none.
const CLI::App& chosen_command(const CLI::App& app) {
  const CLI::App* chosen = &app;
  while (!chosen->get_subcommands().empty()) chosen = chosen->get_subcommands().front();
  return *chosen;
}

/// All its long flags, for "did you mean".
std::vector<std::string> flags_of(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

/// "thaw bench step"
std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return (parent == nullptr ? "" : full_name(*parent) + " ") + command.get_name();
}

/// CLI11's complaint, with the nearest flag or subcommand for a word that it did not know.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  std::string message = error.what();
  const CLI::App& chosen = chosen_command(app);
  const std::vector<std::string> unknown = chosen.remaining();
  const std::vector<std::string> subcommands = subcommand_names(chosen);
  if (!unknown.empty()) {
    message += " " + thaw::suggest(unknown.front(), subcommands.empty() ? flags_of(chosen) : subcommands);
    if (!subcommands.empty()) return message;
  }
  return message + " See " + full_name(chosen) + " --help.";
}

int run(int argc, char** argv) {
  Outcome outcome;
  CLI::App app{
      "Fine-tunes Vision-Language-Action policies by training their last blocks, and proves the rest stayed frozen.",
      "thaw"};
  app.set_version_flag("--version", "thaw " THAW_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  thaw::cli::add_init_command(app, outcome);
  thaw::cli::add_plan_command(app, outcome);
  thaw::cli::add_train_command(app, outcome);
  thaw::cli::add_sweep_command(app, outcome);
  thaw::cli::add_prune_command(app, outcome);
  thaw::cli::add_cache_command(app, outcome);
  thaw::cli::add_verify_command(app, outcome);
  thaw::cli::add_merge_command(app, outcome);
  thaw::cli::add_sample_command(app, outcome);
  thaw::cli::add_inspect_command(app, outcome);
  thaw::cli::add_bench_command(app, outcome);
  try {
    std::vector<std::string> arguments = thaw::cli::with_config_file({argv + 1, argv + argc});
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them last first
    app.parse(std::move(arguments));
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    return fail(outcome, explain(app, error), ExitCode::bad_input);
  } catch (const thaw::Error& error) {
    return fail(outcome, error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return fail(outcome, "out of memory. A smaller --batch-size, or training fewer blocks, needs less.",
                ExitCode::bad_input);
  } catch (const std::exception& error) {
    return fail(outcome, fmt::format("unexpected failure, please report it: {}", error.what()), ExitCode::check_failed);
  }
  return static_cast<int>(outcome.code);
}

}  // namespace

int main(int argc, char** argv) {
  thaw::use_tensor_heap();  // where it cannot be had, malloc serves as well but for the memory it holds on to
  return run(argc, argv);
}
