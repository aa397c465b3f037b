// thaw inspect --similarity and --plasticity: what the blocks of a policy do.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "measure_flags.h"

namespace thaw::cli {

struct InspectMeasuresFlags {
  bool similarity = false;
  bool plasticity = false;
  std::string stacks;
  std::filesystem::path base;
  std::filesystem::path html;
  MeasureFlags measures;

  void add_to(CLI::App& command);
  /// Whether any of them was given.
  [[nodiscard]] bool wanted() const {
    return similarity || plasticity || !stacks.empty() || !base.empty() || !html.empty();
  }
};

/// Prints a table, or JSON, and writes the page of --html. @throws UsageError for flags that do not go together
void inspect_measures(const std::string& policy, const InspectMeasuresFlags& flags, bool json);

}  // namespace thaw::cli
