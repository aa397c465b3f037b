#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "numbers_impl.h"
#include "stack_probe_impl.h"
#include "thaw/core/error.h"
#include "thaw/tensor/random.h"

namespace thaw {
namespace {

constexpr const char* kAll = "all";

/// `count` of `rows` row numbers, ascending, drawn by (seed, group, sample); all of them when there are no more.
at::Tensor drawn_rows(std::int64_t rows, std::int64_t count, std::uint64_t seed, const std::string& group,
                      std::int64_t sample) {
  if (count <= 0 || rows <= count) return at::arange(rows);
  std::uint64_t number = 0;
  for (const char letter : group) number = (number * 31 + static_cast<unsigned char>(letter)) % (1ULL << 40);
  std::vector<std::int64_t> order = random_permutation(
      {.seed = seed, .stream = RandomStream::sampling, .step = number, .sample = static_cast<std::uint64_t>(sample)},
      rows);
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  return at::tensor(order, at::kLong);
}

std::vector<at::Tensor> selected(const std::vector<at::Tensor>& rows, const at::Tensor& numbers) {
  std::vector<at::Tensor> result;
  result.reserve(rows.size());
  for (const at::Tensor& state : rows) result.push_back(state.index_select(0, numbers.to(state.device())));
  return result;
}

/// Sum over the rows of `mask` (R) of <gradient, after - before>; over all rows without a mask.
double gate(const at::Tensor& gradient, const at::Tensor& before, const at::Tensor& after, const at::Tensor& mask) {
  if (!gradient.defined()) return 0.0;
  const at::Tensor update = after.detach().to(at::kDouble) - before.detach().to(at::kDouble);
  const at::Tensor by_row = (gradient.to(at::kDouble) * update).sum(-1).flatten();
  return (mask.defined() ? by_row * mask.flatten() : by_row).sum().item<double>();
}

}  // namespace

void StackProbe::add_similarity(const Streams& streams, std::int64_t sample) {
  check_states(streams);
  // "all" are the rows that go through as many blocks as any do.
  std::vector<at::Tensor> all;
  std::map<std::string, std::vector<at::Tensor>> groups = rows_by_group(streams);
  for (const auto& [name, rows] : groups) {
    add_group(name, rows, sample);
    if (static_cast<std::int64_t>(rows.size()) == states_) append_rows(all, rows);
  }
  const bool several = streams.size() > 1 || streams.begin()->second.groups.size() > 1;
  if (several && !all.empty()) add_group(kAll, all, sample);
}

void StackProbe::check_states(const Streams& streams) {
  const std::int64_t states = most_states(streams);
  if (states_ == 0) states_ = states;
  if (states == states_) return;
  throw UsageError(Problem{.where = "stream of '" + stack_.name + "'",
                           .expected = fmt::format("{} blocks, as of the samples before", states_ - 1),
                           .found = std::to_string(states - 1)});
}

void StackProbe::add_group(const std::string& name, const std::vector<at::Tensor>& rows, std::int64_t sample) {
  const auto states = static_cast<std::int64_t>(rows.size());
  GroupSums& sums = groups_.try_emplace(name, states, options_->cka).first->second;
  sums.rows += rows.front().size(0);
  sums.directions.add(rows);
  sums.sizes.add(rows);
  const std::vector<at::Tensor> drawn =
      selected(rows, drawn_rows(rows.front().size(0), options_->rows_per_sample, options_->seed, name, sample));
  sums.cka.add(drawn);
  sums.concatenated.add(drawn);
}

void StackProbe::add_gate_probe(const Streams& streams,
                                const std::map<std::string, std::vector<at::Tensor>>& gradients) {
  check_states(streams);
  std::map<std::string, std::vector<double>> sums;
  const auto add = [&](const std::string& group, std::size_t block, double value) {
    std::vector<double>& gates = sums[group];
    gates.resize(static_cast<std::size_t>(stack_.blocks), 0.0);
    gates.at(block) += value;
  };
  for (const auto& [part, stream] : streams) {
    const std::vector<at::Tensor>& by_state = gradients.at(part);
    for (const TokenGroup& group : stream.groups) gate_states_[group.name] = stream.states.size();
    for (std::size_t s = 1; s < stream.states.size(); ++s) {
      const at::Tensor& before = stream.states[s - 1];
      const at::Tensor& after = stream.states[s];
      add(kAll, s - 1, gate(by_state.at(s), before, after, {}));
      for (const TokenGroup& group : stream.groups) {
        add(group.name, s - 1, gate(by_state.at(s), before, after, group.rows));
      }
    }
  }
  for (const auto& [group, gates] : sums) {
    std::vector<double>& total = gates_[group];
    total.resize(gates.size(), 0.0);
    for (std::size_t block = 0; block < gates.size(); ++block) total[block] += std::abs(gates[block]);
  }
  ++gate_samples_;
}

/// "all" first. A single group is all there is.
std::vector<std::string> StackProbe::group_names() const {
  std::vector<std::string> names;
  if (groups_.contains(kAll) || (groups_.empty() && gates_.size() > 2)) names.emplace_back(kAll);
  for (const auto& [name, sums] : groups_) {
    if (name != kAll) names.push_back(name);
  }
  if (!groups_.empty()) return names;
  for (const auto& [name, sums] : gates_) {
    if (name != kAll) names.push_back(name);
  }
  return names;
}

StackMeasures StackProbe::measures() {
  StackMeasures measures{.name = stack_.name, .blocks = stack_.blocks};
  for (const std::string& name : group_names()) add_group_measures(name, measures);
  return measures;
}

void StackProbe::add_group_measures(const std::string& name, StackMeasures& measures) {
  GroupMeasures group{.name = name};
  if (const auto found = groups_.find(name); found != groups_.end()) {
    GroupSums& sums = found->second;
    group.rows = sums.rows;
    try {
      group.cka = sums.cka.matrices();
    } catch (const UsageError&) {
      throw UsageError(Problem{.where = fmt::format("unbiased CKA of '{}', group '{}'", stack_.name, name),
                               .expected = "at least 4 rows",
                               .found = fmt::format("{} in all samples", sums.rows),
                               .fix = "Give more calibration samples."});
    }
    group.concatenated = sums.concatenated.successive();
    group.cosine = sums.directions.cosine();
    group.angular = sums.directions.angular();
    const std::vector<MassiveDimension> found_massive = massive(name, sums.sizes);
    measures.massive.insert(measures.massive.end(), found_massive.begin(), found_massive.end());
  }
  if (const auto gates = gates_.find(name); gates != gates_.end()) {
    group.gate_probe = gates->second;
    for (double& value : group.gate_probe) value /= static_cast<double>(gate_samples_);
    const auto known = gate_states_.find(name);
    const std::size_t states = known == gate_states_.end() ? static_cast<std::size_t>(states_) : known->second;
    // The output of a last block that nobody reads.
    for (std::size_t block = states - 1; block < group.gate_probe.size(); ++block) group.gate_probe[block] = kNoNumber;
  }
  measures.groups.push_back(std::move(group));
}

std::vector<MassiveDimension> StackProbe::massive(const std::string& group, const DimensionSizes& sizes) const {
  const double ratio = options_->cka.massive_ratio;
  std::vector<MassiveDimension> found;
  for (std::int64_t state = 0; state < sizes.states(); ++state) {
    const at::Tensor square = sizes.mean_square(state);
    const at::Tensor variance = sizes.variance(state);
    std::vector<std::int64_t> dimensions = massive_dimensions(square, ratio);
    const std::vector<std::int64_t> varying = massive_dimensions(variance, ratio);
    dimensions.insert(dimensions.end(), varying.begin(), varying.end());
    std::sort(dimensions.begin(), dimensions.end());
    dimensions.erase(std::unique(dimensions.begin(), dimensions.end()), dimensions.end());
    for (const std::int64_t dimension : dimensions) {
      const double own_variance = variance[dimension].item<double>();
      found.push_back({.group = group,
                       .state = state,
                       .dimension = dimension,
                       .mean_square_ratio = (square[dimension] / square.median()).item<double>(),
                       .variance_ratio = own_variance / variance.median().item<double>(),
                       .variance_share = own_variance / variance.sum().item<double>()});
    }
  }
  return found;
}

}  // namespace thaw
