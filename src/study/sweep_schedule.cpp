#include "thaw/study/sweep_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr double kWorst = std::numeric_limits<double>::infinity();

struct Configuration {
  const SweepFreeze* freeze = nullptr;
  double learning_rate = 0.0;
  std::int64_t draws = 1;
};

void require(bool holds, const std::string& field, const std::string& expected, const std::string& found) {
  if (!holds) throw UsageError(Problem{.where = "SweepPlan." + field, .expected = expected, .found = found});
}

class Scheduler {
 public:
  Scheduler(const SweepPlan& plan, std::span<const SweepResult> results) : plan_(plan), results_(results) {}

  std::vector<SweepPoint> decided() {
    std::vector<Configuration> configurations = all_configurations();
    const bool searching = plan_.rate_search && !complete(points_);
    if (searching || !climb(configurations)) return unique_points();
    add_all(configurations, plan_.steps, SweepReason::full);
    return unique_points();
  }

 private:
  [[nodiscard]] const SweepResult* result_of(const SweepPoint& point) const { return find_result(results_, point.id); }

  [[nodiscard]] double error_of(const SweepPoint& point) const {
    const SweepResult* result = result_of(point);
    return result == nullptr ? kWorst : result->figure(plan_.figure).value_or(kWorst);
  }

  [[nodiscard]] bool complete(std::span<const SweepPoint> points) const {
    return std::all_of(points.begin(), points.end(),
                       [this](const SweepPoint& point) { return result_of(point) != nullptr; });
  }

  [[nodiscard]] std::vector<Configuration> all_configurations() {
    std::vector<Configuration> all;
    for (const SweepFreeze& freeze : plan_.freezes) {
      for (const double rate : rates_of(freeze)) {
        for (const std::int64_t draws : plan_.draws) all.push_back({&freeze, rate, draws});
      }
    }
    return all;
  }

  /// The rates that `freeze` is trained with at length. With a search: the best so far, or none when every one failed.
  std::vector<double> rates_of(const SweepFreeze& freeze) {
    if (!plan_.rate_search) return plan_.learning_rates;
    std::vector<double> rates = plan_.learning_rates;
    std::sort(rates.begin(), rates.end());
    std::vector<SweepPoint> tried;
    for (const double rate : rates) tried.push_back(short_point(freeze, rate));
    for (std::int64_t beyond = 0; beyond < plan_.rate_search->beyond && complete(tried); ++beyond) {
      const std::optional<double> next = rate_beyond(tried);
      if (!next) break;
      tried.push_back(short_point(freeze, *next));
      std::sort(tried.begin(), tried.end(),
                [](const SweepPoint& a, const SweepPoint& b) { return a.learning_rate < b.learning_rate; });
    }
    points_.insert(points_.end(), tried.begin(), tried.end());
    const SweepPoint& best = tried[best_of(tried)];
    return std::isfinite(error_of(best)) ? std::vector<double>{best.learning_rate} : std::vector<double>{};
  }

  [[nodiscard]] SweepPoint short_point(const SweepFreeze& freeze, double rate) const {
    return sweep_point(freeze,
                       {.learning_rate = rate,
                        .draws = plan_.draws.front(),
                        .seed = plan_.seeds.front(),
                        .steps = plan_.rate_search->steps},
                       SweepReason::rate_search, plan_.setting);
  }

  [[nodiscard]] std::size_t best_of(const std::vector<SweepPoint>& tried) const {
    const auto best = std::min_element(tried.begin(), tried.end(), [this](const SweepPoint& a, const SweepPoint& b) {
      return error_of(a) < error_of(b);
    });
    return static_cast<std::size_t>(best - tried.begin());
  }

  /// `tried` by rising rate, all with results.
  [[nodiscard]] std::optional<double> rate_beyond(const std::vector<SweepPoint>& tried) const {
    if (tried.size() < 2) return std::nullopt;
    const std::size_t best = best_of(tried);
    const std::size_t last = tried.size() - 1;
    const auto rate = [&tried](std::size_t index) { return tried[index].learning_rate; };
    if (!std::isfinite(error_of(tried[best]))) return std::nullopt;
    if (best == 0) return rounded(rate(0) * rate(0) / rate(1));
    if (best == last) return rounded(rate(last) * rate(last) / rate(last - 1));
    return std::nullopt;
  }

  /// To three digits: a rate that people can write down.
  static double rounded(double rate) { return std::stod(fmt::format("{:.2e}", rate)); }

  /// The rungs of halving; `configurations` shrinks to those that train at full length. False: a rung is not done yet.
  bool climb(std::vector<Configuration>& configurations) {
    if (!plan_.halving) return true;
    for (const std::int64_t steps : plan_.halving->rungs) {
      const std::size_t begin = points_.size();
      add_all(configurations, steps, SweepReason::rung);
      if (!complete(std::span(points_).subspan(begin))) return false;
      keep_better_part(configurations, steps);
    }
    return true;
  }

  void add_all(const std::vector<Configuration>& configurations, std::int64_t steps, SweepReason reason) {
    for (const Configuration& each : configurations) {
      for (const std::uint64_t seed : plan_.seeds) points_.push_back(point_of(each, seed, steps, reason));
    }
  }

  [[nodiscard]] SweepPoint point_of(const Configuration& each, std::uint64_t seed, std::int64_t steps,
                                    SweepReason reason) const {
    return sweep_point(*each.freeze,
                       {.learning_rate = each.learning_rate, .draws = each.draws, .seed = seed, .steps = steps}, reason,
                       plan_.setting);
  }

  void keep_better_part(std::vector<Configuration>& configurations, std::int64_t steps) const {
    std::vector<double> errors;
    for (const Configuration& each : configurations) {
      double sum = 0.0;
      for (const std::uint64_t seed : plan_.seeds) sum += error_of(point_of(each, seed, steps, SweepReason::rung));
      errors.push_back(sum);
    }
    std::vector<std::size_t> ranking(configurations.size());
    std::iota(ranking.begin(), ranking.end(), std::size_t{0});
    std::stable_sort(ranking.begin(), ranking.end(),
                     [&errors](std::size_t a, std::size_t b) { return errors[a] < errors[b]; });
    const double share = plan_.halving->keep * static_cast<double>(ranking.size());
    ranking.resize(static_cast<std::size_t>(std::ceil(share)));
    std::sort(ranking.begin(), ranking.end());  // the grid's order
    std::vector<Configuration> kept;
    for (const std::size_t index : ranking) {
      if (std::isfinite(errors[index])) kept.push_back(configurations[index]);
    }
    configurations = std::move(kept);
  }

  /// A training that is asked for twice counts where it is first.
  [[nodiscard]] std::vector<SweepPoint> unique_points() const {
    std::vector<SweepPoint> unique;
    for (const SweepPoint& point : points_) {
      const bool known = std::any_of(unique.begin(), unique.end(),
                                     [&point](const SweepPoint& earlier) { return earlier.id == point.id; });
      if (!known) unique.push_back(point);
    }
    return unique;
  }

  const SweepPlan& plan_;
  std::span<const SweepResult> results_;
  std::vector<SweepPoint> points_;
};

void validate_rungs(const SweepPlan& plan) {
  std::int64_t before = 0;
  for (const std::int64_t steps : plan.halving->rungs) {
    require(steps > before && steps < plan.steps, "halving.rungs",
            fmt::format("rising numbers of steps from 1 to {}", plan.steps - 1), std::to_string(steps));
    before = steps;
  }
  require(!plan.halving->rungs.empty(), "halving.rungs", "at least one", "none");
  require(plan.halving->keep > 0.0 && plan.halving->keep < 1.0, "halving.keep", "above 0 and below 1",
          fmt::format("{}", plan.halving->keep));
}

}  // namespace

void SweepPlan::validate() const {
  require(!freezes.empty(), "freezes", "at least one", "none");
  require(!learning_rates.empty(), "learning_rates", "at least one", "none");
  require(!draws.empty(), "draws", "at least one", "none");
  require(!seeds.empty(), "seeds", "at least one", "none");
  require(steps > 0, "steps", "at least 1", std::to_string(steps));
  if (rate_search) {
    require(learning_rates.size() >= 2, "learning_rates", "at least two to search among",
            fmt::format("{}", learning_rates.size()));
    require(rate_search->steps > 0, "rate_search.steps", "at least 1", std::to_string(rate_search->steps));
    require(rate_search->beyond >= 0, "rate_search.beyond", "at least 0", std::to_string(rate_search->beyond));
  }
  if (halving) validate_rungs(*this);
}

std::vector<SweepPoint> decided_points(const SweepPlan& plan, std::span<const SweepResult> results) {
  return Scheduler(plan, results).decided();
}

std::vector<SweepPoint> pending_points(const SweepPlan& plan, std::span<const SweepResult> results) {
  std::vector<SweepPoint> points = decided_points(plan, results);
  std::erase_if(points, [results](const SweepPoint& point) { return find_result(results, point.id) != nullptr; });
  return points;
}

}  // namespace thaw
