#include "thaw/tensor/compare.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/view_as_real.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "bytes_impl.h"
#include "thaw/core/error.h"
#include "thaw/tensor/dtype.h"

namespace thaw {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double machine_epsilon(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return std::numeric_limits<double>::epsilon();
    case at::kFloat:
      return std::numeric_limits<float>::epsilon();
    case at::kHalf:
      return 0x1p-10;
    case at::kBFloat16:
      return 0x1p-7;
    default:
      throw UsageError(Problem{.where = "reduction_bound",
                               .expected = "float64, float32, float16 or bfloat16",
                               .found = std::string(dtype_name(dtype))});
  }
}

/// An element and how far it is off. `allowed` is the bound, `difference` is infinite when no bound could hold.
struct Offence {
  double ratio = -1.0;
  double difference = 0.0;
  double allowed = 0.0;
  std::int64_t at = 0;
  [[nodiscard]] bool worse_than(const Offence& other) const {
    return ratio > other.ratio || (ratio == other.ratio && difference > other.difference);
  }
};

double difference_of(double actual, double expected) {
  if (std::isnan(actual) && std::isnan(expected)) return 0.0;
  if (actual == expected) return 0.0;  // also the same infinity
  const double difference = std::abs(actual - expected);
  return std::isfinite(difference) ? difference : kInfinity;
}

// Exact, where a double would merge neighbours beyond 2^53.
double difference_of(std::int64_t actual, std::int64_t expected) {
  const auto a = static_cast<std::uint64_t>(actual);
  const auto e = static_cast<std::uint64_t>(expected);
  return static_cast<double>(actual > expected ? a - e : e - a);
}

double difference_of(std::uint64_t actual, std::uint64_t expected) {
  return static_cast<double>(actual > expected ? actual - expected : expected - actual);
}

double magnitude(double value) { return std::isfinite(value) ? std::abs(value) : 0.0; }
double magnitude(std::int64_t value) { return std::abs(static_cast<double>(value)); }
double magnitude(std::uint64_t value) { return static_cast<double>(value); }

template <class T>
Offence worst_element(const T* actual, const T* expected, std::int64_t count, const Bound& bound) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, magnitude(expected[i]));
  const double floor = bound.absolute + bound.relative_to_max * largest;

  Offence worst;
  for (std::int64_t i = 0; i < count; ++i) {
    const double difference = difference_of(actual[i], expected[i]);
    const double allowed = floor + bound.relative * magnitude(expected[i]);
    const double ratio = difference == 0.0 ? 0.0 : (std::isinf(difference) ? kInfinity : difference / allowed);
    const Offence here{.ratio = ratio, .difference = difference, .allowed = allowed, .at = i};
    if (here.worse_than(worst)) worst = here;
  }
  return worst;
}

std::string type_and_shape(const at::Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  return fmt::format("{} [{}]", dtype_name(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "));
}

std::optional<std::string> mismatched_kind(const at::Tensor& actual, const at::Tensor& expected) {
  const bool same = actual.defined() && expected.defined() && actual.sizes() == expected.sizes() &&
                    actual.scalar_type() == expected.scalar_type();
  if (same) return std::nullopt;
  return fmt::format("expected {}, found {}", type_and_shape(expected), type_and_shape(actual));
}

std::vector<std::int64_t> index_of(std::int64_t flat, at::IntArrayRef shape) {
  std::vector<std::int64_t> index(shape.size());
  for (std::size_t i = shape.size(); i-- > 0;) {
    index[i] = flat % shape[i];
    flat /= shape[i];
  }
  return index;
}

template <class T>
Comparison compare_as(at::ScalarType common, const at::Tensor& actual, const at::Tensor& expected, const Bound& bound) {
  const at::Tensor a = detail::packed_on_cpu(actual.detach().to(common));
  const at::Tensor e = detail::packed_on_cpu(expected.detach().to(common));
  if (a.numel() == 0) return {.equal = true};
  const T* a_data = a.const_data_ptr<T>();
  const T* e_data = e.const_data_ptr<T>();
  const Offence worst = worst_element(a_data, e_data, a.numel(), bound);
  Comparison result{.equal = worst.difference <= worst.allowed || worst.ratio <= 0.0,
                    .worst = std::max(worst.ratio, 0.0),
                    .worst_difference = worst.difference,
                    .worst_index = index_of(worst.at, a.sizes()),
                    .message = {}};
  if (!result.equal) {
    result.message = fmt::format("{}: at [{}] expected {}, found {}: off by {:.9g}, allowed {:.9g}",
                                 type_and_shape(expected), fmt::join(result.worst_index, ", "), e_data[worst.at],
                                 a_data[worst.at], worst.difference, worst.allowed);
  }
  return result;
}

}  // namespace

Bound reduction_bound(at::ScalarType dtype, std::int64_t terms) {
  const double rounding = machine_epsilon(dtype);
  const bool half = dtype == at::kHalf || dtype == at::kBFloat16;
  const double accumulation = half ? machine_epsilon(at::kFloat) : rounding;
  const double additions = std::sqrt(static_cast<double>(std::max<std::int64_t>(terms, 1)));
  return {.relative_to_max = 4.0 * accumulation * additions + (half ? 2.0 * rounding : 0.0)};
}

Comparison compare_tensors(const at::Tensor& actual, const at::Tensor& expected, Bound bound) {
  if (auto mismatch = mismatched_kind(actual, expected)) {
    return {.worst = kInfinity, .worst_difference = kInfinity, .message = *std::move(mismatch)};
  }
  const at::ScalarType dtype = expected.scalar_type();
  if (expected.is_complex()) return compare_tensors(at::view_as_real(actual), at::view_as_real(expected), bound);
  if (dtype == at::kUInt64) return compare_as<std::uint64_t>(at::kUInt64, actual, expected, bound);
  if (at::isIntegralType(dtype, /*includeBool=*/true))
    return compare_as<std::int64_t>(at::kLong, actual, expected, bound);
  return compare_as<double>(at::kDouble, actual, expected, bound);
}

bool bitwise_equal(const at::Tensor& a, const at::Tensor& b) {
  if (mismatched_kind(a, b)) return false;
  const at::Tensor packed_a = detail::packed_on_cpu(a);
  const at::Tensor packed_b = detail::packed_on_cpu(b);
  const auto bytes_a = detail::bytes_of(packed_a);
  const auto bytes_b = detail::bytes_of(packed_b);
  return bytes_a.empty() || std::memcmp(bytes_a.data(), bytes_b.data(), bytes_a.size()) == 0;
}

}  // namespace thaw
