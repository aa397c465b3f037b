#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include "stored_statistics_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"

namespace thaw::lerobot {
namespace {

constexpr JsonLimits kLimits{.max_bytes = std::size_t{1} << 30};
constexpr std::int64_t kMaxRank = 5;

[[noreturn]] void refuse(const std::string& where, const std::string& found) {
  throw FormatError(Problem{.where = where, .expected = "a number or evenly nested lists of numbers", .found = found});
}

double number(const Json& value, const std::string& where) {
  if (value.is_boolean()) return value.get<bool>() ? 1.0 : 0.0;
  if (value.is_number()) return value.get<double>();
  refuse(where, value.type_name());
}

void flatten(const Json& value, std::size_t level, const std::vector<std::int64_t>& shape, std::vector<double>& numbers,
             const std::string& where) {
  if (level == shape.size()) {
    numbers.push_back(number(value, where));
    return;
  }
  if (!value.is_array() || static_cast<std::int64_t>(value.size()) != shape[level])
    refuse(where, "lists of several lengths");
  for (const Json& item : value) flatten(item, level + 1, shape, numbers, where);
}

at::Tensor to_tensor(const Json& value, const std::string& where) {
  std::vector<std::int64_t> shape;
  for (const Json* level = &value; level->is_array(); level = &level->front()) {
    shape.push_back(static_cast<std::int64_t>(level->size()));
    if (level->empty() || static_cast<std::int64_t>(shape.size()) > kMaxRank)
      refuse(where, "an empty or deeply nested list");
  }
  std::vector<double> numbers;
  flatten(value, 0, shape, numbers, where);
  const at::Tensor flat = at::tensor(numbers, at::kDouble);
  return shape.empty() ? flat : flat.view(shape);
}

Statistics parse(const Json& json, const std::string& where) {
  Statistics statistics;
  if (!json.is_object()) throw FormatError(Problem{.where = where, .expected = "an object", .found = json.type_name()});
  for (const auto& [feature, values] : json.items()) {
    const std::string feature_where = fmt::format("{} feature '{}'", where, feature);
    if (!values.is_object()) {
      throw FormatError(Problem{.where = feature_where, .expected = "an object", .found = values.type_name()});
    }
    for (const auto& [name, value] : values.items()) {
      statistics[feature][name] = to_tensor(value, fmt::format("{} '{}'", feature_where, name));
    }
  }
  return statistics;
}

/// One feature over episodes: extremes of extremes, count-weighted mean, pooled variance
/// (lerobot/datasets/compute_stats.py, aggregate_feature_stats).
class Pool {
 public:
  void add(const std::map<std::string, at::Tensor>& episode, const std::string& where) {
    for (const char* name : {"min", "max", "mean", "std", "count"}) {
      if (episode.contains(name)) continue;
      throw FormatError(Problem{.where = where, .expected = fmt::format("'{}'", name), .found = "none"});
    }
    const auto of = [&](const char* name) { return episode.at(name); };
    if (!episodes_.empty() && of("mean").sizes() != episodes_.front().at("mean").sizes())
      refuse(where, "another shape than in episode 0");
    for (const char* name : {"min", "max", "std"}) {
      if (of(name).sizes() != of("mean").sizes()) refuse(where, fmt::format("'{}' of another shape than 'mean'", name));
    }
    if (of("count").numel() != 1 || !(of("count").item<double>() >= 1.0)) refuse(where, "a 'count' that is no count");
    episodes_.push_back(episode);
  }

  [[nodiscard]] std::map<std::string, at::Tensor> pooled() const {
    at::Tensor low = episodes_.front().at("min");
    at::Tensor high = episodes_.front().at("max");
    at::Tensor sum = at::zeros_like(low);
    double count = 0.0;
    for (const auto& episode : episodes_) {
      low = at::minimum(low, episode.at("min"));
      high = at::maximum(high, episode.at("max"));
      sum += episode.at("mean") * episode.at("count").item<double>();
      count += episode.at("count").item<double>();
    }
    const at::Tensor mean = sum / count;
    at::Tensor squares = at::zeros_like(low);
    for (const auto& episode : episodes_) {
      const at::Tensor away = episode.at("mean") - mean;
      squares += (episode.at("std").square() + away.square()) * episode.at("count").item<double>();
    }
    return {{"min", low},
            {"max", high},
            {"mean", mean},
            {"std", (squares / count).sqrt()},
            {"count", at::full({1}, count, at::kDouble)}};
  }

 private:
  std::vector<std::map<std::string, at::Tensor>> episodes_;
};

Statistics aggregate(const std::vector<Json>& lines, const std::string& where) {
  std::map<std::string, Pool> pools;
  for (const Json& line : lines) {
    const auto episode = json_field<std::int64_t>(line, "episode_index", where);
    const std::string line_where = fmt::format("{} episode {}", where, episode);
    for (const auto& [feature, values] : parse(json_field<Json>(line, "stats", line_where), line_where)) {
      pools[feature].add(values, fmt::format("{} feature '{}'", line_where, feature));
    }
  }
  Statistics statistics;
  for (const auto& [feature, pool] : pools) statistics[feature] = pool.pooled();
  return statistics;
}

}  // namespace

Statistics read_stored_statistics(const std::filesystem::path& root, const DatasetInfo& info) {
  const std::string per_episode = "meta/episodes_stats.jsonl";
  const std::string global = "meta/stats.json";
  if (!info.is_v3 && std::filesystem::exists(root / per_episode)) {
    return aggregate(read_json_lines(root / per_episode, kLimits), per_episode);
  }
  if (std::filesystem::exists(root / global)) return parse(read_json(root / global, kLimits), global);
  return {};
}

}  // namespace thaw::lerobot
