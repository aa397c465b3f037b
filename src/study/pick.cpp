#include "thaw/study/pick.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::infinity();
constexpr std::array<std::pair<std::string_view, SweepCost>, 3> kCosts{
    {{"parameters", SweepCost::parameters}, {"memory", SweepCost::memory}, {"time", SweepCost::time}}};

bool is_of(const SweepCandidate& candidate, const SweepPoint& point) {
  return candidate.freeze == point.freeze && candidate.pruning == point.pruning &&
         candidate.learning_rate == point.learning_rate && candidate.draws == point.draws;
}

SweepCandidate& candidate_of(std::vector<SweepCandidate>& candidates, const SweepPoint& point) {
  const auto found = std::find_if(candidates.begin(), candidates.end(),
                                  [&point](const SweepCandidate& candidate) { return is_of(candidate, point); });
  if (found != candidates.end()) return *found;
  candidates.push_back({.freeze = point.freeze,
                        .blocks = point.blocks,
                        .pruning = point.pruning,
                        .learning_rate = point.learning_rate,
                        .draws = point.draws,
                        .steps = point.steps});
  return candidates.back();
}

void add(SweepCandidate& candidate, const SweepResult& result, const std::string& figure) {
  const std::optional<double> error = result.figure(figure);
  if (!error) {
    ++candidate.failed;
    return;
  }
  candidate.ids.push_back(result.point.id);
  candidate.seeds.push_back(result.point.seed);
  candidate.errors.push_back(*error);
  candidate.trainable_parameters = result.trainable_parameters;
  candidate.planned_peak_bytes = result.planned_peak_bytes;
  candidate.planned_step_flops = result.planned_step_flops;
  candidate.seconds += result.times.seconds;
  candidate.samples_per_second += result.times.samples_per_second;
}

void finish(SweepCandidate& candidate) {
  const auto count = static_cast<double>(candidate.errors.size());
  candidate.mean = std::numeric_limits<double>::quiet_NaN();
  if (candidate.errors.empty()) return;
  double sum = 0.0;
  for (const double error : candidate.errors) sum += error;
  candidate.mean = sum / count;
  candidate.seconds /= count;
  candidate.samples_per_second /= count;
  if (candidate.errors.size() < 2) return;
  double squares = 0.0;
  for (const double error : candidate.errors) squares += (error - candidate.mean) * (error - candidate.mean);
  candidate.spread = std::sqrt(squares / (count - 1.0) / count);
}

/// What is compared, in order.
std::tuple<double, double, double> price(const SweepCandidate& candidate, SweepCost cost) {
  const double flops = candidate.planned_step_flops.value_or(kUnknown);
  switch (cost) {
    case SweepCost::memory:
      return {candidate.planned_peak_bytes ? static_cast<double>(*candidate.planned_peak_bytes) : kUnknown, flops,
              candidate.mean};
    case SweepCost::time:
      return {candidate.seconds, 0.0, candidate.mean};
    default:
      return {static_cast<double>(candidate.trainable_parameters), flops, candidate.mean};
  }
}

std::string describe(const SweepCandidate& candidate) {
  std::string text = fmt::format("{} at rate {:g}", candidate.name(), candidate.learning_rate);
  if (candidate.draws > 1) text += fmt::format(" with {} draws", candidate.draws);
  return text;
}

std::string cost_text(const SweepCandidate& candidate, SweepCost cost) {
  switch (cost) {
    case SweepCost::memory:
      return fmt::format("the least planned memory ({:.4g} MB)",
                         static_cast<double>(candidate.planned_peak_bytes.value_or(0)) / 1e6);
    case SweepCost::time:
      return fmt::format("the least time ({:.3g} s)", candidate.seconds);
    default:
      return fmt::format("the fewest trainable parameters ({})", candidate.trainable_parameters);
  }
}

Json candidate_to_json(const SweepCandidate& candidate) {
  Json json{{"freeze", candidate.freeze}, {"learning_rate", candidate.learning_rate},
            {"draws", candidate.draws},   {"steps", candidate.steps},
            {"mean", candidate.mean},     {"ids", candidate.ids}};
  if (candidate.spread) json["standard_error"] = *candidate.spread;
  add_pruning(json, candidate.pruning);
  return json;
}

}  // namespace

std::vector<SweepCandidate> sweep_candidates(std::span<const SweepResult> results, const std::string& figure,
                                             std::int64_t steps) {
  std::vector<SweepCandidate> candidates;
  for (const SweepResult& result : results) {
    if (result.point.steps == steps) add(candidate_of(candidates, result.point), result, figure);
  }
  for (SweepCandidate& candidate : candidates) finish(candidate);
  return candidates;
}

SweepCost parse_sweep_cost(std::string_view text) {
  for (const auto& [name, cost] : kCosts) {
    if (name == text) return cost;
  }
  throw UsageError(
      Problem{.where = "cost", .expected = "parameters, memory or time", .found = fmt::format("'{}'", text)});
}

std::string_view sweep_cost_name(SweepCost cost) {
  return std::find_if(kCosts.begin(), kCosts.end(), [cost](const auto& known) { return known.second == cost; })->first;
}

std::optional<Pick> pick(std::span<const SweepCandidate> candidates, SweepCost cost, const std::string& figure) {
  std::vector<SweepCandidate> complete;
  std::copy_if(candidates.begin(), candidates.end(), std::back_inserter(complete),
               [](const SweepCandidate& candidate) { return candidate.complete(); });
  if (complete.empty()) return std::nullopt;
  const auto by_error = [](const SweepCandidate& a, const SweepCandidate& b) { return a.mean < b.mean; };
  const auto by_price = [cost](const SweepCandidate& a, const SweepCandidate& b) {
    return price(a, cost) < price(b, cost);
  };
  Pick result{.cost = cost, .figure = figure};
  result.best = *std::min_element(complete.begin(), complete.end(), by_error);
  result.limit = result.best.mean + result.best.spread.value_or(0.0);
  std::erase_if(complete, [&result](const SweepCandidate& candidate) { return candidate.mean > result.limit; });
  result.within = static_cast<std::int64_t>(complete.size());
  result.picked = *std::min_element(complete.begin(), complete.end(), by_price);
  return result;
}

std::string Pick::reason() const {
  std::string text = fmt::format("{}: {} among the {} whose mean {} is at most {:.5g}", describe(picked),
                                 cost_text(picked, cost), within, figure, limit);
  if (!best.spread) {
    return text + fmt::format(", that of the best ({}). One seed gives no standard error: run more.", describe(best));
  }
  return text + fmt::format(" = {:.5g} of the best ({}) + {:.2g}, its standard error over {} seeds.", best.mean,
                            describe(best), *best.spread, best.errors.size());
}

Json Pick::to_json() const {
  return {{"picked", candidate_to_json(picked)},
          {"best", candidate_to_json(best)},
          {"limit", limit},
          {"within", within},
          {"cost", sweep_cost_name(cost)},
          {"figure", figure},
          {"reason", reason()}};
}

}  // namespace thaw
