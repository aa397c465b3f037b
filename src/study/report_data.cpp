#include <fmt/format.h>

#include <algorithm>

#include "report_data_impl.h"
#include "report_html_impl.h"

namespace thaw {
namespace {

/// The stack whose blocks all configurations count; empty when they differ in more than that.
std::string only_stack(const std::vector<SweepCandidate>& candidates) {
  std::string stack;
  for (const SweepCandidate& candidate : candidates) {
    if (candidate.blocks.size() != 1) return {};
    const std::string& name = candidate.blocks.begin()->first;
    if (!stack.empty() && stack != name) return {};
    stack = name;
  }
  return stack;
}

/// What the candidates were pruned to, fewest blocks removed first.
std::vector<SweepPruning> prunings_of(const std::vector<SweepCandidate>& candidates) {
  std::vector<SweepPruning> all;
  for (const SweepCandidate& candidate : candidates) {
    if (std::find(all.begin(), all.end(), candidate.pruning) == all.end()) all.push_back(candidate.pruning);
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const SweepPruning& a, const SweepPruning& b) { return a.count < b.count; });
  return all;
}

}  // namespace

ReportData::ReportData(std::span<const SweepResult> all, const ReportOptions& chosen)
    : results(all),
      options(chosen),
      candidates(sweep_candidates(all, chosen.figure, chosen.steps)),
      pick(thaw::pick(candidates, chosen.cost, chosen.figure)),
      stack(only_stack(candidates)),
      prunings(prunings_of(candidates)),
      any_pruned(std::any_of(all.begin(), all.end(),
                             [](const SweepResult& result) { return result.point.pruning.count > 0; })) {}

std::size_t ReportData::row_of(const SweepCandidate& candidate) const {
  const auto found = std::find_if(candidates.begin(), candidates.end(), [&candidate](const SweepCandidate& each) {
    return same_configuration(each, candidate);
  });
  return static_cast<std::size_t>(found - candidates.begin());
}

std::string ReportData::link_of(const SweepCandidate& candidate) const {
  return fmt::format("c{}", row_of(candidate) + 1);
}

bool ReportData::is_picked(const SweepCandidate& candidate) const {
  return pick && same_configuration(candidate, pick->picked);
}

bool same_configuration(const SweepCandidate& a, const SweepCandidate& b) {
  return a.freeze == b.freeze && a.pruning == b.pruning && a.learning_rate == b.learning_rate && a.draws == b.draws;
}

std::string spread_text(const SweepCandidate& candidate) {
  return candidate.spread ? fmt::format(" ± {}", number_text(*candidate.spread)) : std::string();
}

}  // namespace thaw
