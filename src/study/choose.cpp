#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "numbers_impl.h"
#include "thaw/core/error.h"
#include "thaw/study/prune.h"

namespace thaw {
namespace {

using Blocks = std::vector<std::int64_t>;

/// The `count` numbers with the greatest value, ascending; NaN is never taken.
std::optional<Blocks> greatest(std::span<const double> values, std::int64_t count) {
  Blocks order;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isnan(values[i])) order.push_back(static_cast<std::int64_t>(i));
  }
  if (static_cast<std::int64_t>(order.size()) < count) return std::nullopt;
  std::stable_sort(order.begin(), order.end(), [values](std::int64_t a, std::int64_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

/// The same, of all sets that leave every other number at its place in the period. Dynamic programming over how many of
/// the numbers before are taken: one that stays needs a multiple of the period before it.
class PeriodicChoice {
 public:
  PeriodicChoice(std::span<const double> values, std::int64_t count, std::int64_t period)
      : values_(values), count_(count), period_(period), width_(static_cast<std::size_t>(count) + 1) {}

  [[nodiscard]] std::optional<Blocks> solve() {
    const std::size_t size = values_.size();
    best_.assign((size + 1) * width_, kImpossible);
    best_[0] = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t taken = 0; taken < width_; ++taken) extend(i, taken);
    }
    if (at(size, static_cast<std::size_t>(count_)) == kImpossible) return std::nullopt;
    return traced_back();
  }

 private:
  static constexpr double kImpossible = -std::numeric_limits<double>::infinity();

  double& at(std::size_t seen, std::size_t taken) { return best_[seen * width_ + taken]; }

  [[nodiscard]] bool may_stay(std::size_t taken) const { return static_cast<std::int64_t>(taken) % period_ == 0; }

  void extend(std::size_t i, std::size_t taken) {
    const double so_far = at(i, taken);
    if (so_far == kImpossible) return;
    if (may_stay(taken)) at(i + 1, taken) = std::max(at(i + 1, taken), so_far);
    const bool may_go = !std::isnan(values_[i]) && taken + 1 < width_;
    if (may_go) at(i + 1, taken + 1) = std::max(at(i + 1, taken + 1), so_far + values_[i]);
  }

  /// Of equal sums the one with earlier blocks: from the end, a block stays whenever it may.
  Blocks traced_back() {
    Blocks chosen;
    auto taken = static_cast<std::size_t>(count_);
    for (std::size_t i = values_.size(); i > 0; --i) {
      const double here = at(i, taken);
      if (may_stay(taken) && at(i - 1, taken) == here) continue;
      --taken;
      chosen.push_back(static_cast<std::int64_t>(i - 1));
    }
    std::reverse(chosen.begin(), chosen.end());
    return chosen;
  }

  std::span<const double> values_;
  std::int64_t count_;
  std::int64_t period_;
  std::size_t width_;
  std::vector<double> best_;
};

std::optional<Blocks> best_of(std::span<const double> values, std::int64_t count, std::int64_t period) {
  return period == 1 ? greatest(values, count) : PeriodicChoice(values, count, period).solve();
}

void check_options(std::size_t blocks, std::int64_t remove, std::int64_t period) {
  const auto count = static_cast<std::int64_t>(blocks);
  if (remove >= 0 && remove < std::max<std::int64_t>(count, 1) && period >= 1) return;
  throw UsageError(Problem{
      .where = "blocks to remove", .expected = fmt::format("0..{}", count - 1), .found = std::to_string(remove)});
}

/// Runs of consecutive blocks at or above the threshold. Block 0 has no score: it begins the run of block 1, or none.
std::vector<Blocks> runs_at(std::span<const double> similarity, double threshold, bool first_block_anchors) {
  std::vector<Blocks> runs;
  Blocks run;
  if (first_block_anchors && !similarity.empty()) run.push_back(0);
  for (std::size_t block = 1; block <= similarity.size(); ++block) {
    const bool goes_on = block < similarity.size() && similarity[block] >= threshold;
    if (goes_on) {
      run.push_back(static_cast<std::int64_t>(block));
      continue;
    }
    if (run.size() > 1) runs.push_back(run);
    run.clear();
  }
  return runs;
}

Blocks all_but_first(const std::vector<Blocks>& runs) {
  Blocks candidates;
  for (const Blocks& run : runs) candidates.insert(candidates.end(), run.begin() + 1, run.end());
  return candidates;
}

/// The greatest score below `threshold`; NaN when there is none.
double next_below(std::span<const double> similarity, double threshold) {
  double next = kNoNumber;
  for (const double value : similarity.subspan(std::min<std::size_t>(similarity.size(), 1))) {
    if (value < threshold && !(value <= next)) next = value;
  }
  return next;
}

/// `values` at `blocks`, NaN elsewhere.
std::vector<double> only(std::span<const double> values, const Blocks& blocks) {
  std::vector<double> chosen(values.size(), kNoNumber);
  for (const std::int64_t block : blocks) {
    chosen[static_cast<std::size_t>(block)] = values[static_cast<std::size_t>(block)];
  }
  return chosen;
}

}  // namespace

ClpChoice choose_clp(std::span<const double> similarity, const ClpOptions& options) {
  check_options(similarity.size(), options.remove, options.period);
  ClpChoice choice;
  for (double threshold = options.threshold; !std::isnan(threshold); threshold = next_below(similarity, threshold)) {
    choice.threshold = threshold;
    choice.runs = runs_at(similarity, threshold, options.first_block_anchors);
    choice.candidates = all_but_first(choice.runs);
    if (auto removed = best_of(only(similarity, choice.candidates), options.remove, options.period)) {
      choice.removed = std::move(*removed);
      return choice;
    }
  }
  throw UsageError(Problem{
      .where = "CLP",
      .expected = fmt::format("at most {} blocks to remove: the first of a run stays{}", choice.candidates.size(),
                              options.period > 1 ? fmt::format(", and so does the period of {}", options.period) : ""),
      .found = std::to_string(options.remove)});
}

std::vector<std::int64_t> choose_least(std::span<const double> importance, std::int64_t remove, std::int64_t period) {
  check_options(importance.size(), remove, period);
  std::vector<double> redundancy(importance.begin(), importance.end());
  for (double& value : redundancy) value = -value;
  if (auto removed = best_of(redundancy, remove, period)) return std::move(*removed);
  throw UsageError(
      Problem{.where = "blocks to remove",
              .expected = fmt::format("a number that keeps the period of {} and the blocks without a measure", period),
              .found = std::to_string(remove)});
}

}  // namespace thaw
