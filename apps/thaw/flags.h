// Flags that several subcommands share, and how text on the command line becomes what the library takes.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "command.h"
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/policy/layout.h"

namespace thaw::cli {

/// A subcommand with defaults shown in its help, --json, and a footer of examples.
CLI::App* add_subcommand(CLI::App& app, Outcome& outcome, const std::string& name, const std::string& description,
                         const std::string& examples);

/// --freeze and --freeze-file.
struct FreezeFlags {
  std::string rules;
  std::filesystem::path file;
  void add_to(CLI::App& command);
  /// The file's rules first, then the flag's. @throws UsageError, IoError, FormatError
  [[nodiscard]] LayerFreezePolicy policy() const;
};

/// --lora.
struct AdapterFlags {
  std::string rules;
  void add_to(CLI::App& command);
  /// What they put on a model of which `full_rank` trains; empty without --lora. @throws as choose_adapters
  [[nodiscard]] std::vector<Adapter> adapters(const ModelLayout& layout, const LayerFreezePolicy& full_rank) const;
  /// What trains: `full_rank` as it is, or beside adapters.
  [[nodiscard]] LayerFreezePolicy freeze(const LayerFreezePolicy& full_rank) const;
};

/// "a, b,,c" at ',' -> a b c: blanks around a part and empty parts are left out.
[[nodiscard]] std::vector<std::string> split(const std::string& text, char separator);

/// "0,3,5-7" -> 0 3 5 6 7. `flag` names the source in errors. @throws UsageError
[[nodiscard]] std::vector<std::int64_t> parse_numbers(const std::string& text, const std::string& flag);

/// "a=b,c=d". @throws UsageError
[[nodiscard]] std::map<std::string, std::string> parse_pairs(const std::string& text, const std::string& flag);

/// "24GB" -> 24e9, "24GiB" -> 24 · 2^30; also MB, MiB, TB, TiB, and plain bytes. @throws UsageError
[[nodiscard]] std::int64_t parse_byte_size(const std::string& text, const std::string& flag);

/// 450046176 -> "450,046,176"
[[nodiscard]] std::string grouped(std::int64_t number);

/// Values of a subcommand's flags as TOML, defaults included: what --config-file reads back. `absolute` names flags
/// that hold paths; they are written so that they hold from any folder. `leave_out` names flags that are not written.
[[nodiscard]] std::string flags_as_toml(const CLI::App& command, const std::vector<std::string>& absolute,
                                        const std::vector<std::string>& leave_out);

/// The base checkpoint of a run or head: `given` when not empty, else what the run's config.toml says.
/// @throws UsageError when neither says it; IoError, FormatError
[[nodiscard]] std::string base_of_run(const std::filesystem::path& run, const std::string& given);

/// The newest head of a run folder, or `run` itself when it is a file or a folder with a head in it.
/// @throws IoError when there is none
[[nodiscard]] std::filesystem::path head_of_run(const std::filesystem::path& run);

}  // namespace thaw::cli
