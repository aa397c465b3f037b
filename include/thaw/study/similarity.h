/// How alike the streams before and after blocks are: linear CKA, block influence, angular distance.
///
/// References: Kornblith et al., "Similarity of Neural Network Representations Revisited", 2019 (linear CKA); Song et
/// al., "Feature Selection via Dependence Maximization", 2012 (HSIC_1); Nguyen et al., "Do Wide and Deep Networks Learn
/// the Same Things?", 2021 (minibatch CKA); Men et al., "ShortGPT", 2024 (block influence); Gromov et al., "The
/// Unreasonable Ineffectiveness of the Deeper Layers", 2024 (angular distance).
///
/// Legend: S states of a stream (before its first block, behind each), n rows, d width.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace thaw {

/// ||Y'X||² / (||X'X|| ||Y'Y||) of column-centred rows X (n, d), Y (n, e); NaN when one has no variance. For
/// independent rows it is about 1 / (1 + n / d), not 0: the biased estimate says little unless n is much larger than d.
/// @throws UsageError when the numbers of rows differ or are below 2
[[nodiscard]] double biased_cka(const at::Tensor& x, const at::Tensor& y);

/// HSIC_1 without bias: 0 in expectation for independent rows, and possibly below. K, L (n, n) Gram matrices, float64;
/// their diagonals are not read. @throws UsageError when n is below 4
[[nodiscard]] double unbiased_hsic(const at::Tensor& k, const at::Tensor& l);

/// Dimensions that are more than `ratio` times as large as the median one; none when half of them are 0. sizes (d):
/// mean squares or variances, float64.
[[nodiscard]] std::vector<std::int64_t> massive_dimensions(const at::Tensor& sizes, double ratio);

struct MinibatchCkaOptions {
  /// Rows that are compared at a time; Gram matrices of S · rows² float64 are held.
  std::int64_t rows = 512;
  /// Variance beside the median one, above which a dimension is massive and left out of `trimmed`.
  double massive_ratio = 100.0;
  void validate() const;  ///< @throws UsageError naming the field
};

/// Of every pair of states, (S, S) float64; NaN where a state has no variance.
struct CkaMatrices {
  at::Tensor biased;    ///< sums of HSIC_0 over minibatches; with one minibatch, biased_cka()
  at::Tensor unbiased;  ///< sums of HSIC_1 over minibatches, numerators and denominators apart; may be below 0
  at::Tensor trimmed;   ///< unbiased, each state without the dimensions that are massive in the minibatch
  std::int64_t rows = 0;
  std::int64_t minibatches = 0;
};

/// CKA of all pairs of states from rows that come in pieces. Minibatches are filled in the order of the rows, whatever
/// pieces they come in; up to three rows left at the end are not used.
class MinibatchCka {
 public:
  explicit MinibatchCka(std::int64_t states, MinibatchCkaOptions options = {});
  /// The same rows of each state, (n, d) floating point.
  void add(std::span<const at::Tensor> rows);
  /// @throws UsageError when fewer than 4 rows came
  [[nodiscard]] CkaMatrices matrices();

 private:
  struct Sums {
    at::Tensor biased;
    at::Tensor unbiased;
    at::Tensor trimmed;
  };
  void use(std::int64_t rows);

  MinibatchCkaOptions options_;
  Sums sums_;
  std::vector<std::vector<at::Tensor>> waiting_;  ///< per state, pieces of rows
  std::int64_t waiting_rows_ = 0;
  std::int64_t used_rows_ = 0;
  std::int64_t minibatches_ = 0;
};

/// biased_cka() of each state and the next over all rows at once, as the paper defines it ("concatenated"), from rows
/// that come in pieces. Holds (2 S - 1) d² float64.
class ConcatenatedCka {
 public:
  explicit ConcatenatedCka(std::int64_t states);
  void add(std::span<const at::Tensor> rows);
  /// S - 1 numbers; NaN where a state has no variance, or fewer than 2 rows came.
  [[nodiscard]] std::vector<double> successive() const;

 private:
  std::int64_t rows_ = 0;
  std::vector<at::Tensor> shift_;   ///< (d): mean of the first piece, taken off before products are summed
  std::vector<at::Tensor> sum_;     ///< (d)
  std::vector<at::Tensor> square_;  ///< X'X (d, d)
  std::vector<at::Tensor> cross_;   ///< X'Y with the next state (d, d)
};

/// Cosines and angles between the states of each row, averaged over rows.
class Directions {
 public:
  explicit Directions(std::int64_t states);
  void add(std::span<const at::Tensor> rows);
  /// Mean cosine of each pair, (S, S) float64; NaN without rows. Block influence of block l is
  /// 1 - cosine()[l][l + 1].
  [[nodiscard]] at::Tensor cosine() const;
  /// Mean of arccos(cosine) / π, (S, S) float64 in [0, 1]: angular()[l][l + n] is the distance over the run of n blocks
  /// from block l on.
  [[nodiscard]] at::Tensor angular() const;

 private:
  std::int64_t rows_ = 0;
  at::Tensor cosine_;
  at::Tensor angular_;
};

/// How large the dimensions of each state are, with and without their mean.
class DimensionSizes {
 public:
  explicit DimensionSizes(std::int64_t states);
  void add(std::span<const at::Tensor> rows);
  [[nodiscard]] std::int64_t states() const noexcept { return static_cast<std::int64_t>(sums_.size()); }
  /// (d) float64. What a massive dimension does to cosines shows here,
  [[nodiscard]] at::Tensor mean_square(std::int64_t state) const;
  /// and what it does to CKA, which takes the mean off, here.
  [[nodiscard]] at::Tensor variance(std::int64_t state) const;

 private:
  std::int64_t rows_ = 0;
  std::vector<at::Tensor> sums_;
  std::vector<at::Tensor> squares_;
};

}  // namespace thaw
