#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/core/names.h"
#include "thaw/policy/adapters.h"
#include "thaw/tensor/compare.h"
#include "thaw/tensor/random.h"
#include "weights_impl.h"

namespace thaw::models {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kNamesShown = 8;
constexpr const char* kWeightsFile = "model.safetensors";

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

/// "3 missing: a, b, c"; longer lists are cut.
std::string listed(const std::string& kind, const std::vector<std::string>& names) {
  const std::size_t shown = std::min(names.size(), kNamesShown);
  const std::vector<std::string> head(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown));
  const std::string more = names.size() > shown ? fmt::format(" and {} more", names.size() - shown) : "";
  return fmt::format("{} {}: {}{}", names.size(), kind, fmt::join(head, ", "), more);
}

/// The name without the segments that torch.compile leaves.
std::string without_compile_segments(std::string name) {
  const std::string segment = "_orig_mod.";
  for (auto at = name.find(segment); at != std::string::npos; at = name.find(segment)) name.erase(at, segment.size());
  return name;
}

/// A normalisation buffer taken apart: normalize_inputs.[robot_]buffer_observation_state.mean
struct BufferName {
  std::string robot;
  std::string feature;  ///< with "_" where the feature has "."
  std::string statistic;
};

std::optional<BufferName> parse_buffer_name(const std::string& name) {
  static constexpr std::array<std::string_view, 8> kGroups{
      "normalize_inputs.", "normalize_targets.", "unnormalize_outputs.", "unnormalize_targets.",
      "input_normalizer.", "output_normalizer.", "normalize.",           "unnormalize."};
  const auto group = std::find_if(kGroups.begin(), kGroups.end(),
                                  [&name](std::string_view prefix) { return name.rfind(prefix, 0) == 0; });
  const std::size_t last_dot = name.rfind('.');
  if (group == kGroups.end() || last_dot < group->size()) return std::nullopt;
  std::string feature = name.substr(group->size(), last_dot - group->size());
  std::string robot;
  const std::string marker = "buffer_";
  if (const auto at = feature.find(marker); at != std::string::npos) {
    robot = feature.substr(0, at);
    feature = feature.substr(at + marker.size());
  }
  return BufferName{.robot = robot, .feature = feature, .statistic = name.substr(last_dot + 1)};
}

/// What is wrong with a file, all of it at once.
struct Faults {
  std::vector<std::string> missing;
  std::vector<std::string> unknown;
  std::vector<std::string> misshapen;
  std::vector<std::string> not_floating;

  [[nodiscard]] std::string text() const {
    std::vector<std::string> parts;
    if (!missing.empty()) parts.push_back(listed("missing", missing));
    if (!unknown.empty()) parts.push_back(listed("unknown", unknown));
    if (!misshapen.empty()) parts.push_back(listed("misshapen", misshapen));
    if (!not_floating.empty()) parts.push_back(listed("not floating point", not_floating));
    return fmt::format("{}", fmt::join(parts, "; "));
  }
};

void check_entry(const SafetensorsEntry& entry, const ParameterInfo& wanted, Faults& faults) {
  if (entry.shape != wanted.shape) {
    faults.misshapen.push_back(
        fmt::format("{} {} instead of {}", entry.name, shape_text(entry.shape), shape_text(wanted.shape)));
  }
  if (!at::isFloatingType(entry.dtype)) faults.not_floating.push_back(entry.name);
}

bool is_finite(const at::Tensor& tensor) {
  // A sum is finite only where every element is; it may overflow where all are, so only a bad sum is looked at closely.
  if (tensor.numel() == 0 || std::isfinite(tensor.sum().item<double>())) return true;
  return at::isfinite(tensor).all().item<bool>();
}

at::Tensor random_parameter(const ParameterInfo& parameter, std::uint64_t seed, std::uint64_t index, bool is_offset) {
  const RandomKey key{.seed = seed, .stream = RandomStream::initialisation, .sample = index};
  at::Tensor values = random_normal(key, parameter.shape);
  const std::string& name = parameter.name;
  const bool is_norm_weight =
      parameter.shape.size() == 1 && name.size() > 7 && name.rfind(".weight") == name.size() - 7;
  if (is_norm_weight && !is_offset) {
    values.mul_(0.1).add_(1.0);
  } else if (parameter.shape.size() == 1) {
    values.mul_(0.1);
  } else if (name.find("position_embedding") != std::string::npos) {
    values.mul_(0.3);
  } else {
    const std::int64_t fan_in = parameter.numel() / std::max<std::int64_t>(1, parameter.shape.front());
    values.div_(std::sqrt(static_cast<double>(fan_in)));
  }
  return values.to(parameter.dtype);
}

/// Statistics of one feature by robot, as they are found.
using RobotStatistics = std::map<std::string, std::map<std::string, at::Tensor>>;

bool same_statistics(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && bitwise_equal(x.second, y.second);
  });
}

/// The statistics of the one robot there is, or nothing where several disagree or the buffers were never filled.
std::map<std::string, at::Tensor> agreed(const std::string& feature, const RobotStatistics& robots) {
  const auto& first = robots.begin()->second;
  const bool agree = std::all_of(robots.begin(), robots.end(),
                                 [&first](const auto& robot) { return same_statistics(robot.second, first); });
  if (!agree) {
    log_warning("The model file holds statistics of " + std::to_string(robots.size()) + " robots for '" + feature +
                "': none is taken, the values stay as they are. Give the statistics of your dataset.");
    return {};
  }
  const bool filled =
      std::all_of(first.begin(), first.end(), [](const auto& entry) { return is_finite(entry.second); });
  if (!filled) log_warning("The statistics of '" + feature + "' in the model file were never filled and are left out.");
  return filled ? first : std::map<std::string, at::Tensor>{};
}

}  // namespace

WeightsIndex match_weights(const WeightsFile& file, const std::vector<ParameterInfo>& table, const Rename& rename) {
  std::map<std::string, const ParameterInfo*> wanted;
  for (const ParameterInfo& parameter : table) wanted.emplace(parameter.name, &parameter);

  WeightsIndex index;
  Faults faults;
  for (const SafetensorsEntry& entry : file.entries()) {
    const std::string plain = without_compile_segments(entry.name);
    const std::optional<std::string> renamed = rename ? rename(plain) : std::optional(plain);
    if (!renamed) continue;
    const std::string& name = *renamed;
    const auto found = wanted.find(name);
    if (found == wanted.end()) {
      parse_buffer_name(plain) ? index.statistics.push_back(entry.name) : faults.unknown.push_back(entry.name);
    } else if (!index.file_names.emplace(name, entry.name).second) {
      faults.unknown.push_back(entry.name + " (a second '" + name + "')");
    } else {
      check_entry(entry, *found->second, faults);
    }
  }
  for (const ParameterInfo& parameter : table) {
    if (!index.file_names.contains(parameter.name)) faults.missing.push_back(parameter.name);
  }
  if (const std::string text = faults.text(); !text.empty()) {
    throw MismatchError(Problem{.where = file.path().string(),
                                .expected = fmt::format("the {} tensors that config.json implies", table.size()),
                                .found = text,
                                .fix = "Sizes that config.json cannot say are read from vlm_config.json beside it."});
  }
  return index;
}

std::vector<NamedTensor> read_weights(const WeightsFile& file, const WeightsIndex& index,
                                      std::vector<ParameterInfo>& table, const ReadWeights& options) {
  std::vector<NamedTensor> weights;
  weights.reserve(table.size());
  std::vector<std::string> broken;
  for (ParameterInfo& parameter : table) {
    at::Tensor tensor = file.read(index.file_names.at(parameter.name));
    if (!options.allow_non_finite && !is_finite(tensor)) broken.push_back(parameter.name);
    if (options.dtype) tensor = tensor.to(*options.dtype);
    parameter.dtype = tensor.scalar_type();
    weights.push_back({.name = parameter.name, .tensor = std::move(tensor)});
  }
  if (!broken.empty()) {
    throw MismatchError(Problem{.where = file.path().string(),
                                .expected = "finite weights",
                                .found = listed("tensors with NaN or infinity", broken),
                                .fix = "The training that wrote it diverged; load an earlier checkpoint."});
  }
  return weights;
}

std::map<std::string, at::Tensor> read_again(const fs::path& folder, const std::vector<ParameterInfo>& table,
                                             std::vector<ParameterInfo> wanted, const Rename& rename) {
  if (folder.empty()) {
    throw UsageError(Problem{
        .where = "policy", .expected = "one that was loaded from a folder", .found = "one with weights of its own"});
  }
  const WeightsFile file(folder);
  const WeightsIndex index = match_weights(file, table, rename);
  std::map<std::string, at::Tensor> tensors;
  for (NamedTensor& tensor : read_weights(file, index, wanted, {.allow_non_finite = true})) {
    tensors.emplace(std::move(tensor.name), std::move(tensor.tensor));
  }
  return tensors;
}

void take_dtypes(const WeightsFile& file, const WeightsIndex& index, std::vector<ParameterInfo>& table) {
  for (ParameterInfo& parameter : table) parameter.dtype = file.entry(index.file_names.at(parameter.name)).dtype;
}

Statistics read_buffer_statistics(const WeightsFile& file, const WeightsIndex& index,
                                  const std::vector<std::string>& features) {
  std::map<std::string, RobotStatistics> found;
  for (const std::string& file_name : index.statistics) {
    const BufferName name = parse_buffer_name(without_compile_segments(file_name)).value();
    for (const std::string& feature : features) {
      std::string flat = feature;
      std::replace(flat.begin(), flat.end(), '.', '_');
      if (name.feature == flat || name.feature == feature) {
        found[feature][name.robot][name.statistic] = file.read(file_name).to(at::kFloat);
      }
    }
  }
  Statistics statistics;
  for (const auto& [feature, robots] : found) {
    auto values = agreed(feature, robots);
    if (!values.empty()) statistics.emplace(feature, std::move(values));
  }
  return statistics;
}

std::vector<NamedTensor> random_weights(const std::vector<ParameterInfo>& table, std::uint64_t seed,
                                        const std::function<bool(const std::string&)>& is_offset) {
  std::vector<NamedTensor> weights(table.size());
  at::parallel_for(0, static_cast<std::int64_t>(table.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto index = static_cast<std::size_t>(i);
      const bool offset = is_offset && is_offset(table[index].name);
      weights[index] = {.name = table[index].name,
                        .tensor = random_parameter(table[index], seed, static_cast<std::uint64_t>(i), offset)};
    }
  });
  return weights;
}

void write_weights(const fs::path& folder, const ModelLayout& layout, const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> adapters;
  std::map<std::string, at::Tensor> weights;
  std::vector<std::string> order;
  for (const auto& parameter : module.named_parameters()) {
    const bool adapts = is_adapter_parameter(parameter.key());
    (adapts ? adapters : weights)[parameter.key()] = parameter.value().detach();
    if (!adapts) order.push_back(parameter.key());
  }
  for (const Adapter& adapter : layout.adapters) {
    at::Tensor& weight = weights.at(adapter.linear + ".weight");
    weight = merged_weight(weight, adapter, adapters);
  }
  std::vector<NamedTensor> tensors;
  for (const std::string& name : order) tensors.push_back({.name = name, .tensor = weights.at(name)});
  write_safetensors(folder / kWeightsFile, tensors, {{"format", "pt"}});
}

}  // namespace thaw::models
