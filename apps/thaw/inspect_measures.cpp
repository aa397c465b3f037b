#include "inspect_measures.h"

#include <iostream>
#include <sstream>

#include "thaw/core/error.h"
#include "thaw/core/files.h"

namespace thaw::cli {
namespace {

MeasureOptions measure_options(const InspectMeasuresFlags& flags) {
  MeasureOptions options = flags.measures.options;
  options.stacks = split(flags.stacks, ',');
  options.similarity = flags.similarity;
  options.gradients = flags.plasticity;
  return options;
}

void check(const std::string& policy, const InspectMeasuresFlags& flags) {
  if (!flags.similarity && !flags.plasticity) {
    throw UsageError(Problem{.where = "--stack, --base, --html",
                             .expected = "--similarity or --plasticity beside them",
                             .found = "neither"});
  }
  if (!flags.base.empty() && !flags.plasticity) {
    throw UsageError(Problem{.where = "--base", .expected = "--plasticity beside it", .found = "--similarity alone"});
  }
  if (policy.empty()) {
    throw UsageError(Problem{.where = "--similarity, --plasticity",
                             .expected = "a policy folder",
                             .found = "a configuration, which has no weights"});
  }
}

}  // namespace

void InspectMeasuresFlags::add_to(CLI::App& command) {
  command.add_flag(
      "--similarity", similarity,
      "how alike the stream is before and behind each block, on frames of --dataset: CKA, block influence,\n"
      "angular distance, per kind of token");
  command.add_flag("--plasticity", plasticity,
                   "what training would change: GateProbe, relative gradient norm, Fisher, divergence from --base");
  command.add_option("--stack", stacks, "measure these alone, comma-separated");
  command.add_option("--base", base, "checkpoint that the policy was trained from, for the divergence of its weights");
  command.add_option("--html", html, "write the measures as a page with heat maps");
  measures.add_to(command);
}

void inspect_measures(const std::string& policy, const InspectMeasuresFlags& flags, bool json) {
  check(policy, flags);
  const MeasureReport report = measure(policy, flags.measures, measure_options(flags), flags.base);
  if (!flags.html.empty()) write_text_atomic(flags.html, measure_html(report));
  if (json) {
    std::cout << report.to_json().dump(2) << '\n';
  } else {
    std::cout << measure_table(report);
  }
}

}  // namespace thaw::cli
