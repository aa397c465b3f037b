#include "thaw/study/similarity.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "numbers_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr std::int64_t kLeastRows = 4;  // of HSIC_1

at::Tensor in_double(const at::Tensor& rows) { return rows.detach().to(at::kCPU, at::kDouble); }

at::Tensor centred(const at::Tensor& rows) { return rows - rows.mean(0, /*keepdim=*/true); }

void require_rows(std::int64_t rows, std::int64_t least, const char* where) {
  if (rows >= least) return;
  throw UsageError(Problem{.where = where,
                           .expected = fmt::format("at least {} rows", least),
                           .found = std::to_string(rows),
                           .fix = "Give more calibration samples."});
}

/// Whether there is anything to add. @throws UsageError unless each of `states` states has the same number of rows
bool has_rows(std::span<const at::Tensor> rows, std::size_t states) {
  for (const at::Tensor& state : rows) {
    if (rows.size() == states && state.dim() == 2 && state.size(0) == rows.front().size(0)) continue;
    throw UsageError(
        Problem{.where = "rows of states",
                .expected = fmt::format("{} matrices of equally many rows", states),
                .found = fmt::format("{}, one of shape ({})", rows.size(), fmt::join(state.sizes(), ", "))});
  }
  return !rows.empty() && rows.front().size(0) > 0;
}

double ratio(double numerator, double denominator) { return denominator > 0.0 ? numerator / denominator : kNoNumber; }

/// numerators (S, S) -> numerator_ij / sqrt(numerator_ii · numerator_jj); NaN unless both are positive.
at::Tensor normalised(const at::Tensor& numerators) {
  const at::Tensor own = numerators.diagonal();
  const at::Tensor scale = at::where(own > 0, own, at::full_like(own, kNoNumber)).rsqrt();
  return numerators * scale.unsqueeze(0) * scale.unsqueeze(1);
}

/// Rows (S, n, d) of equal width -> HSIC_0 of all pairs, (S, S).
at::Tensor biased_pairs(const at::Tensor& grams) {
  const std::int64_t n = grams.size(1);
  const at::Tensor by_column = grams - grams.mean(1, true);
  const at::Tensor flat = (by_column - by_column.mean(2, true)).flatten(1);
  return flat.matmul(flat.t()) / static_cast<double>((n - 1) * (n - 1));
}

/// Gram matrices (S, n, n) -> HSIC_1 of all pairs, (S, S).
at::Tensor unbiased_pairs(const at::Tensor& grams) {
  const auto n = static_cast<double>(grams.size(1));
  const at::Tensor hollow = grams * (1.0 - at::eye(grams.size(1), grams.options()));
  const at::Tensor flat = hollow.flatten(1);
  const at::Tensor sums = hollow.sum(2);  // (S, n)
  const at::Tensor totals = sums.sum(1);  // (S)
  const at::Tensor traces = flat.matmul(flat.t());
  const at::Tensor means = totals.outer(totals) / ((n - 1) * (n - 2));
  const at::Tensor crossed = sums.matmul(sums.t()) * (2.0 / (n - 2));
  return (traces + means - crossed) / (n * (n - 3));
}

/// (…, d) -> (…, d) bool.
at::Tensor is_massive(const at::Tensor& sizes, double massive_ratio) {
  const at::Tensor median = std::get<0>(sizes.median(-1, /*keepdim=*/true));
  return (sizes > massive_ratio * median).logical_and(median > 0);
}

/// Centred rows (S, n, d) with the massive dimensions of each state at 0.
at::Tensor without_massive(const at::Tensor& rows, double massive_ratio) {
  return rows * is_massive(rows.square().mean(1), massive_ratio).logical_not().unsqueeze(1);
}

at::Tensor gram(const at::Tensor& rows) { return rows.matmul(rows.transpose(1, 2)); }

}  // namespace

double biased_cka(const at::Tensor& x, const at::Tensor& y) {
  require_rows(std::min(x.size(0), y.size(0)), 2, "biased CKA");
  if (x.size(0) != y.size(0)) {
    throw UsageError(Problem{.where = "biased CKA",
                             .expected = fmt::format("{} rows in both", x.size(0)),
                             .found = std::to_string(y.size(0))});
  }
  const at::Tensor a = centred(in_double(x));
  const at::Tensor b = centred(in_double(y));
  const double together = b.t().matmul(a).square().sum().item<double>();
  const double apart = a.t().matmul(a).norm().item<double>() * b.t().matmul(b).norm().item<double>();
  return ratio(together, apart);
}

double unbiased_hsic(const at::Tensor& k, const at::Tensor& l) {
  require_rows(k.size(0), kLeastRows, "unbiased HSIC");
  return unbiased_pairs(at::stack({k, l}))[0][1].item<double>();
}

std::vector<std::int64_t> massive_dimensions(const at::Tensor& sizes, double massive_ratio) {
  const at::Tensor massive = is_massive(sizes, massive_ratio).nonzero().flatten().contiguous();
  const std::int64_t* first = massive.const_data_ptr<std::int64_t>();
  return {first, first + massive.numel()};
}

void MinibatchCkaOptions::validate() const {
  if (rows < kLeastRows) {
    throw UsageError(
        Problem{.where = "MinibatchCkaOptions.rows", .expected = "at least 4", .found = std::to_string(rows)});
  }
  if (!(massive_ratio > 1.0)) {
    throw UsageError(Problem{.where = "MinibatchCkaOptions.massive_ratio",
                             .expected = "above 1",
                             .found = fmt::format("{}", massive_ratio)});
  }
}

MinibatchCka::MinibatchCka(std::int64_t states, MinibatchCkaOptions options)
    : options_(options), waiting_(static_cast<std::size_t>(states)) {
  options_.validate();
  const at::Tensor none = at::zeros({states, states}, at::kDouble);
  sums_ = {.biased = none.clone(), .unbiased = none.clone(), .trimmed = none.clone()};
}

void MinibatchCka::add(std::span<const at::Tensor> rows) {
  if (!has_rows(rows, waiting_.size())) return;
  for (std::size_t state = 0; state < waiting_.size(); ++state) waiting_[state].push_back(in_double(rows[state]));
  waiting_rows_ += rows.front().size(0);
  while (waiting_rows_ >= options_.rows) use(options_.rows);
}

void MinibatchCka::use(std::int64_t rows) {
  std::vector<at::Tensor> states;
  for (std::vector<at::Tensor>& pieces : waiting_) {
    const at::Tensor all = at::cat(pieces);
    // HSIC does not change when a constant is taken off; its sums then cancel less.
    states.push_back(centred(all.narrow(0, 0, rows)));
    pieces = {all.narrow(0, rows, all.size(0) - rows).clone()};
  }
  const at::Tensor centre_free = at::stack(states);
  const at::Tensor grams = gram(centre_free);
  sums_.biased += biased_pairs(grams);
  sums_.unbiased += unbiased_pairs(grams);
  sums_.trimmed += unbiased_pairs(gram(without_massive(centre_free, options_.massive_ratio)));
  waiting_rows_ -= rows;
  used_rows_ += rows;
  ++minibatches_;
}

CkaMatrices MinibatchCka::matrices() {
  if (waiting_rows_ >= kLeastRows) use(waiting_rows_);
  require_rows(used_rows_ + waiting_rows_, kLeastRows, "unbiased CKA");
  return {.biased = normalised(sums_.biased),
          .unbiased = normalised(sums_.unbiased),
          .trimmed = normalised(sums_.trimmed),
          .rows = used_rows_,
          .minibatches = minibatches_};
}

ConcatenatedCka::ConcatenatedCka(std::int64_t states)
    : shift_(static_cast<std::size_t>(states)),
      sum_(static_cast<std::size_t>(states)),
      square_(static_cast<std::size_t>(states)),
      cross_(static_cast<std::size_t>(states)) {}

void ConcatenatedCka::add(std::span<const at::Tensor> rows) {
  if (!has_rows(rows, shift_.size())) return;
  std::vector<at::Tensor> shifted;
  for (std::size_t i = 0; i < shift_.size(); ++i) {
    const at::Tensor x = in_double(rows[i]);
    if (!shift_[i].defined()) {
      const std::int64_t width = x.size(1);
      shift_[i] = x.mean(0);
      sum_[i] = at::zeros({width}, at::kDouble);
      square_[i] = at::zeros({width, width}, at::kDouble);
      if (i + 1 < shift_.size()) cross_[i] = at::zeros({width, rows[i + 1].size(1)}, at::kDouble);
    }
    shifted.push_back(x - shift_[i]);
  }
  for (std::size_t i = 0; i < shifted.size(); ++i) {
    sum_[i] += shifted[i].sum(0);
    square_[i].addmm_(shifted[i].t(), shifted[i]);
    if (i + 1 < shifted.size()) cross_[i].addmm_(shifted[i].t(), shifted[i + 1]);
  }
  rows_ += rows.front().size(0);
}

std::vector<double> ConcatenatedCka::successive() const {
  const std::size_t pairs = shift_.empty() ? 0 : shift_.size() - 1;
  std::vector<double> values(pairs, kNoNumber);
  if (rows_ < 2) return values;
  const auto n = static_cast<double>(rows_);
  std::vector<double> own;
  for (std::size_t i = 0; i <= pairs; ++i) {
    own.push_back((square_[i] - sum_[i].outer(sum_[i]) / n).norm().item<double>());
  }
  for (std::size_t i = 0; i < pairs; ++i) {
    const double together = (cross_[i] - sum_[i].outer(sum_[i + 1]) / n).square().sum().item<double>();
    values[i] = ratio(together, own[i] * own[i + 1]);
  }
  return values;
}

Directions::Directions(std::int64_t states)
    : cosine_(at::zeros({states, states}, at::kDouble)), angular_(at::zeros({states, states}, at::kDouble)) {}

void Directions::add(std::span<const at::Tensor> rows) {
  if (!has_rows(rows, static_cast<std::size_t>(cosine_.size(0)))) return;
  constexpr std::int64_t kPiece = 512;
  const std::int64_t count = rows.front().size(0);
  for (std::int64_t from = 0; from < count; from += kPiece) {
    std::vector<at::Tensor> units;
    for (const at::Tensor& state : rows) {
      const at::Tensor x = in_double(state.slice(0, from, std::min(count, from + kPiece)));
      units.push_back(x / x.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-30));
    }
    const at::Tensor stacked = at::stack(units, 1);  // (n, S, d)
    const at::Tensor cosines = stacked.matmul(stacked.transpose(1, 2)).clamp(-1.0, 1.0);
    cosine_ += cosines.sum(0);
    angular_ += cosines.acos().sum(0) / std::numbers::pi;
  }
  rows_ += count;
}

at::Tensor Directions::cosine() const { return cosine_ / static_cast<double>(rows_); }

at::Tensor Directions::angular() const {
  at::Tensor mean = angular_ / static_cast<double>(rows_);
  mean.fill_diagonal_(0.0);  // arccos makes 1e-8 of the last bit of a cosine of 1
  return mean;
}

DimensionSizes::DimensionSizes(std::int64_t states)
    : sums_(static_cast<std::size_t>(states)), squares_(static_cast<std::size_t>(states)) {}

void DimensionSizes::add(std::span<const at::Tensor> rows) {
  if (!has_rows(rows, sums_.size())) return;
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    const at::Tensor x = in_double(rows[i]);
    sums_[i] = sums_[i].defined() ? sums_[i] + x.sum(0) : x.sum(0);
    squares_[i] = squares_[i].defined() ? squares_[i] + x.square().sum(0) : x.square().sum(0);
  }
  rows_ += rows.front().size(0);
}

at::Tensor DimensionSizes::mean_square(std::int64_t state) const {
  return squares_.at(static_cast<std::size_t>(state)) / static_cast<double>(rows_);
}

at::Tensor DimensionSizes::variance(std::int64_t state) const {
  const at::Tensor mean = sums_.at(static_cast<std::size_t>(state)) / static_cast<double>(rows_);
  return (mean_square(state) - mean.square()).clamp_min(0.0);
}

}  // namespace thaw
