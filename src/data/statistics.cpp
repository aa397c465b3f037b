#include "thaw/data/statistics.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace thaw {
namespace {

/// Below this part of the largest magnitude, float32 has at most a few steps left for a range.
constexpr double kNoRange = 1e-6;
/// An outlier this far out after quantile normalisation (where most data lie in [-1, 1]) deserves a word.
constexpr double kFarOut = 100.0;

struct Quantile {
  const char* name;
  double at;
};
constexpr std::array<Quantile, 5> kQuantiles{
    {{"q01", 0.01}, {"q10", 0.10}, {"q50", 0.50}, {"q90", 0.90}, {"q99", 0.99}}};

/// Statistics of one dimension.
struct Dimension {
  double mean = std::numeric_limits<double>::quiet_NaN();
  double std = mean;
  double min = mean;
  double max = mean;
  std::array<double, kQuantiles.size()> quantiles{mean, mean, mean, mean, mean};
  std::int64_t finite = 0;
  std::int64_t first_not_finite = -1;  // row
};

/// numpy.quantile's method "linear", with its rounding.
double quantile(const std::vector<double>& sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(place));
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = place - static_cast<double>(below);
  const double step = sorted[above] - sorted[below];
  return part < 0.5 ? sorted[below] + step * part : sorted[above] - step * (1.0 - part);
}

double mean_of(const std::vector<double>& values) {
  double sum = 0.0;
  double lost = 0.0;  // Neumaier's compensation
  for (const double value : values) {
    const double next = sum + value;
    lost += std::abs(sum) >= std::abs(value) ? (sum - next) + value : (value - next) + sum;
    sum = next;
  }
  return (sum + lost) / static_cast<double>(values.size());
}

Dimension measure(const double* values, std::int64_t rows, std::int64_t stride) {
  Dimension result;
  std::vector<double> finite;
  finite.reserve(static_cast<std::size_t>(rows));
  for (std::int64_t row = 0; row < rows; ++row) {
    const double value = values[row * stride];
    if (std::isfinite(value)) {
      finite.push_back(value);
    } else if (result.first_not_finite < 0) {
      result.first_not_finite = row;
    }
  }
  result.finite = static_cast<std::int64_t>(finite.size());
  if (finite.empty()) return result;
  std::sort(finite.begin(), finite.end());
  result.min = finite.front();
  result.max = finite.back();
  for (std::size_t q = 0; q < kQuantiles.size(); ++q) result.quantiles[q] = quantile(finite, kQuantiles[q].at);
  // A constant's mean is the constant and its deviation 0, without the rounding of a sum.
  const bool constant = result.min == result.max;
  result.mean = constant ? result.min : mean_of(finite);
  for (double& value : finite) value = (value - result.mean) * (value - result.mean);
  result.std = std::sqrt(mean_of(finite));
  return result;
}

using Values = std::map<std::string, at::Tensor>;

/// Scalars as LeRobot keeps them: shape (1).
std::vector<std::int64_t> statistic_shape(const at::Tensor& column) {
  std::vector<std::int64_t> shape(column.sizes().begin() + 1, column.sizes().end());
  if (shape.empty()) shape.push_back(1);
  return shape;
}

Values to_values(const std::vector<Dimension>& dimensions, const std::vector<std::int64_t>& shape) {
  Values values;
  const auto put = [&](const char* name, auto&& field) {
    std::vector<double> numbers;
    numbers.reserve(dimensions.size());
    for (const Dimension& dimension : dimensions) numbers.push_back(field(dimension));
    values[name] = at::tensor(numbers, at::kDouble).view(shape);
  };
  put("mean", [](const Dimension& d) { return d.mean; });
  put("std", [](const Dimension& d) { return d.std; });
  put("min", [](const Dimension& d) { return d.min; });
  put("max", [](const Dimension& d) { return d.max; });
  for (std::size_t q = 0; q < kQuantiles.size(); ++q) {
    put(kQuantiles[q].name, [q](const Dimension& d) { return d.quantiles[q]; });
  }
  return values;
}

bool no_range(double low, double high, double magnitude) { return !(high - low > kNoRange * magnitude); }

std::string name_of(const std::string& feature, std::size_t dimension, std::size_t dimensions) {
  return dimensions == 1 ? feature : fmt::format("{}[{}]", feature, dimension);
}

void warn_of_numbers(const std::string& name, const Dimension& d, std::int64_t rows,
                     std::vector<std::string>& warnings) {
  if (d.finite == rows) return;
  warnings.push_back(
      fmt::format("{}: {} of {} values are NaN or infinite, the first in row {}; they are left out of the statistics",
                  name, rows - d.finite, rows, d.first_not_finite));
}

void warn_of_range(const std::string& name, const Dimension& d, std::vector<std::string>& warnings) {
  if (d.finite == 0) return;
  const double magnitude = std::max(std::abs(d.min), std::abs(d.max));
  const double low = d.quantiles.front();
  const double high = d.quantiles.back();
  if (no_range(d.min, d.max, magnitude)) {
    warnings.push_back(
        fmt::format("{}: constant ({:g} in every frame): std = {:g}, any other value is normalised to a huge one", name,
                    d.min, d.std));
  } else if (no_range(low, high, magnitude)) {
    warnings.push_back(
        fmt::format("{}: q01 = q99 = {:g} although values run from {:g} to {:g}: quantile normalisation divides by 0",
                    name, low, d.min, d.max));
  } else {
    const double farthest = std::max(high - d.min, d.max - low) / (high - low) * 2.0 - 1.0;
    if (farthest <= kFarOut) return;
    warnings.push_back(fmt::format(
        "{}: q01 = {:g} and q99 = {:g} but values run from {:g} to {:g}: quantile normalisation reaches {:.0f}", name,
        low, high, d.min, d.max, farthest));
  }
}

bool is_normalised(FeatureType type) {
  return type == FeatureType::state || type == FeatureType::action || type == FeatureType::environment;
}

void add_feature(const LeRobotDataset& dataset, const Feature& feature, DatasetStatistics& result) {
  const at::Tensor column = dataset.column(feature.name);
  const at::Tensor table = column.to(at::kDouble).reshape({column.size(0), -1}).contiguous();
  std::vector<Dimension> dimensions;
  for (std::int64_t d = 0; d < table.size(1); ++d) {
    dimensions.push_back(measure(table.const_data_ptr<double>() + d, table.size(0), table.size(1)));
  }
  Values& values = result.values[feature.name];
  values = to_values(dimensions, statistic_shape(column));
  values["count"] = at::tensor({static_cast<double>(table.size(0))}, at::kDouble);
  if (!is_normalised(feature.type)) return;
  for (std::size_t d = 0; d < dimensions.size(); ++d) {
    const std::string name = name_of(feature.name, d, dimensions.size());
    warn_of_numbers(name, dimensions[d], table.size(0), result.warnings);
    warn_of_range(name, dimensions[d], result.warnings);
  }
}

// --- guard_degenerate ---

/// Flat float64 values of one feature's statistics, written back in the tensor's own dtype.
class GuardedFeature {
 public:
  GuardedFeature(std::string feature, Values& values) : feature_(std::move(feature)), values_(values) {}

  void guard(std::vector<std::string>& notes) {
    if (!values_.contains("min") || !values_.contains("max")) return;
    for (auto& [name, tensor] : values_) {
      if (name != "count") flat_[name] = tensor.to(at::kDouble).reshape({-1}).clone();
    }
    const std::int64_t count = flat_.at("min").numel();
    for (std::int64_t d = 0; d < count; ++d) guard_dimension(d, count, notes);
    for (auto& [name, flat] : flat_) values_[name] = flat.view(values_[name].sizes()).to(values_[name].scalar_type());
  }

 private:
  [[nodiscard]] double get(const char* name, std::int64_t d) const {
    return flat_.at(name).const_data_ptr<double>()[d];
  }
  void set(const char* name, std::int64_t d, double value) {
    const auto found = flat_.find(name);
    if (found != flat_.end()) found->second.mutable_data_ptr<double>()[d] = value;
  }

  void guard_dimension(std::int64_t d, std::int64_t count, std::vector<std::string>& notes) {
    const double low = get("min", d);
    const double high = get("max", d);
    const double magnitude = std::max(std::abs(low), std::abs(high));
    const std::string name = name_of(feature_, static_cast<std::size_t>(d), static_cast<std::size_t>(count));
    if (!std::isfinite(low) || !std::isfinite(high)) return;
    if (no_range(low, high, magnitude)) {
      make_unit_range(d, low);
      notes.push_back(fmt::format("{}: constant {:g} is normalised with std 1 and the range {:g} to {:g}", name, low,
                                  low - 1.0, low + 1.0));
      return;
    }
    widen("q01", "q99", d, low, high, name, notes);
    widen("q10", "q90", d, low, high, name, notes);
  }

  void make_unit_range(std::int64_t d, double constant) {
    for (const char* name : {"min", "q01", "q10"}) set(name, d, constant - 1.0);
    for (const char* name : {"max", "q90", "q99"}) set(name, d, constant + 1.0);
    set("std", d, 1.0);
  }

  void widen(const char* below, const char* above, std::int64_t d, double low, double high, const std::string& name,
             std::vector<std::string>& notes) {
    if (!flat_.contains(below) || !flat_.contains(above)) return;
    if (!no_range(get(below, d), get(above, d), std::max(std::abs(low), std::abs(high)))) return;
    notes.push_back(fmt::format("{}: {} = {} = {:g} is replaced by min {:g} and max {:g}", name, below, above,
                                get(below, d), low, high));
    set(below, d, low);
    set(above, d, high);
  }

  std::string feature_;
  Values& values_;
  std::map<std::string, at::Tensor> flat_;
};

}  // namespace

DatasetStatistics compute_statistics(const LeRobotDataset& dataset) {
  DatasetStatistics result;
  for (const Feature& feature : dataset.features()) {
    if (feature.type != FeatureType::visual) {
      add_feature(dataset, feature, result);
      continue;
    }
    const auto stored = dataset.stored_statistics().find(feature.name);
    if (stored != dataset.stored_statistics().end()) result.values[feature.name] = stored->second;
  }
  return result;
}

std::vector<std::string> guard_degenerate(Statistics& statistics) {
  std::vector<std::string> notes;
  for (auto& [feature, values] : statistics) {
    if (feature.starts_with("observation.image")) continue;
    if (!feature.starts_with("observation") && !feature.starts_with("action")) continue;
    GuardedFeature(feature, values).guard(notes);
  }
  return notes;
}

}  // namespace thaw
