/// The report of a sweep: one HTML file without anything from elsewhere, read on a phone or printed, in light and dark,
/// by eye, keyboard or screen reader. Every mark leads to its configuration, and every configuration to its lines of
/// results.jsonl by number and id.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/study/pick.h"
#include "thaw/study/sweep_results.h"

namespace thaw {

/// How much each block of a stack matters by some measure.
struct BlockImportance {
  std::string stack;
  std::string measure;         ///< "cosine block influence", …
  std::vector<double> values;  ///< one a block
};

/// `{"importance": [{"stack": "language", "measure": "…", "values": [0.1, …]}, …]}`, or the list alone.
/// @throws FormatError naming `where` and the field
[[nodiscard]] std::vector<BlockImportance> importance_from_json(const Json& json, const std::string& where);

struct ReportOptions {
  std::string title = "How many layers?";
  std::string subtitle;  ///< what was trained on what
  std::string figure = "loss";
  SweepCost cost = SweepCost::parameters;
  std::int64_t steps = 0;  ///< of a point at full length
  std::vector<BlockImportance> importance;
};

/// The page. `results` in the order of results.jsonl: their place is the line they are traced to.
[[nodiscard]] std::string sweep_report(std::span<const SweepResult> results, const ReportOptions& options);

/// The configurations at full length as a table of at most 100 columns, with the pick and its reason below.
[[nodiscard]] std::string sweep_table(std::span<const SweepResult> results, const ReportOptions& options);

}  // namespace thaw
