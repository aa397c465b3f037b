/// What the parts of a report show: results by configuration, the pick, and how configurations are named.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "thaw/study/pick.h"
#include "thaw/study/report.h"

namespace thaw {

struct ReportData {
  ReportData(std::span<const SweepResult> results, const ReportOptions& options);

  /// Place among the candidates, from 0; the table counts from 1.
  [[nodiscard]] std::size_t row_of(const SweepCandidate& candidate) const;
  /// Anchor of a candidate's row in the table.
  [[nodiscard]] std::string link_of(const SweepCandidate& candidate) const;
  [[nodiscard]] bool is_picked(const SweepCandidate& candidate) const;

  std::span<const SweepResult> results;
  const ReportOptions& options;
  std::vector<SweepCandidate> candidates;
  std::optional<Pick> pick;
  std::string stack;                   ///< whose blocks all configurations count; empty when they differ in more
  std::vector<SweepPruning> prunings;  ///< what the bases were pruned to, fewest blocks removed first
  bool any_pruned = false;
};

/// Whether two candidates are one configuration.
[[nodiscard]] bool same_configuration(const SweepCandidate& a, const SweepCandidate& b);

/// " ± 0.01", or nothing for one seed.
[[nodiscard]] std::string spread_text(const SweepCandidate& candidate);

/// The section of charts, and that of the importance of blocks; empty when there is nothing to draw.
[[nodiscard]] std::string report_charts(const ReportData& data);
[[nodiscard]] std::string importance_charts(const ReportData& data);

/// The table of configurations, and that of the lines of results.jsonl.
[[nodiscard]] std::string report_tables(const ReportData& data);

}  // namespace thaw
