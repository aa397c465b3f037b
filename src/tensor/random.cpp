#include "thaw/tensor/random.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "philox_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr int kIndexBits = 44;
constexpr std::uint64_t kIndexLimit = std::uint64_t{1} << kIndexBits;

std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
std::uint32_t high(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }

void check_index(std::uint64_t value, const char* name) {
  if (value < kIndexLimit) return;
  throw UsageError(Problem{.where = fmt::format("random numbers, {}", name),
                           .expected = fmt::format("less than 2^{}", kIndexBits),
                           .found = std::to_string(value)});
}

/// The blocks of one key. The counter is (block 32 | sample 44 | step 44 | stream 8), so that no two keys of a seed
/// ever share a block: Philox is a permutation of the counters.
class Blocks {
 public:
  explicit Blocks(const RandomKey& key) : key_{low(key.seed), high(key.seed)} {
    check_index(key.step, "step");
    check_index(key.sample, "sample");
    const auto stream = static_cast<std::uint32_t>(key.stream);
    const std::uint64_t middle = key.sample | (key.step << kIndexBits);  // 44 bits of sample, 20 of step
    const std::uint64_t rest = key.step >> (64 - kIndexBits);            // the other 24 of step
    counter_ = {0, low(middle), high(middle), low(rest) | (stream << 24)};
  }

  /// Two independent 64-bit numbers.
  [[nodiscard]] std::array<std::uint64_t, 2> at(std::uint64_t block) const {
    if (block > std::numeric_limits<std::uint32_t>::max()) {
      throw UsageError("random numbers: more than 2^33 numbers of one key were asked for");
    }
    auto counter = counter_;
    counter[0] = low(block);
    const auto words = detail::philox4x32_10(counter, key_);
    return {words[0] | (std::uint64_t{words[1]} << 32), words[2] | (std::uint64_t{words[3]} << 32)};
  }

 private:
  detail::PhiloxKey key_;
  detail::PhiloxCounter counter_{};
};

// The middles of 2^52 equal steps: exact in a double, never 0 and never 1.
double open_unit(std::uint64_t bits) { return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52; }

std::array<double, 2> box_muller(const std::array<std::uint64_t, 2>& bits) {
  const double radius = std::sqrt(-2.0 * std::log(open_unit(bits[0])));
  const double angle = 2.0 * std::numbers::pi * open_unit(bits[1]);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

/// 64-bit numbers one after the other.
class Sequence {
 public:
  explicit Sequence(const RandomKey& key) : blocks_(key) {}

  std::uint64_t next() {
    const std::uint64_t at = next_++;
    if (at % 2 == 0) pair_ = blocks_.at(at / 2);
    return pair_[at % 2];
  }

  /// Uniform in 0..limit-1, without bias (Lemire, "Fast Random Integer Generation in an Interval", 2019).
  std::uint64_t below(std::uint64_t limit) {
    __extension__ using Wide = unsigned __int128;
    Wide product = Wide{next()} * limit;
    const std::uint64_t threshold = (0 - limit) % limit;
    while (static_cast<std::uint64_t>(product) < threshold) product = Wide{next()} * limit;
    return static_cast<std::uint64_t>(product >> 64);
  }

 private:
  Blocks blocks_;
  std::uint64_t next_ = 0;
  std::array<std::uint64_t, 2> pair_{};
};

}  // namespace

at::Tensor random_normal(RandomKey key, at::IntArrayRef shape) {
  const Blocks blocks(key);
  at::Tensor out = at::empty(shape, at::kFloat);
  float* values = out.mutable_data_ptr<float>();
  const std::int64_t count = out.numel();
  for (std::int64_t i = 0; i < count; i += 2) {
    const auto pair = box_muller(blocks.at(static_cast<std::uint64_t>(i / 2)));
    values[i] = static_cast<float>(pair[0]);
    if (i + 1 < count) values[i + 1] = static_cast<float>(pair[1]);
  }
  return out;
}

at::Tensor random_uniform(RandomKey key, std::int64_t count) {
  if (count < 0) throw UsageError(fmt::format("random numbers: expected a count of at least 0, found {}", count));
  Sequence sequence(key);
  at::Tensor out = at::empty({count}, at::kDouble);
  double* values = out.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < count; ++i) values[i] = open_unit(sequence.next());
  return out;
}

std::vector<std::int64_t> random_permutation(RandomKey key, std::int64_t n) {
  if (n < 0) throw UsageError(fmt::format("random permutation: expected a length of at least 0, found {}", n));
  Sequence sequence(key);
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[sequence.below(left)]);
  return order;
}

}  // namespace thaw
