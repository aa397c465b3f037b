#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "dataset_fit_impl.h"
#include "thaw/core/error.h"
#include "thaw/data/statistics.h"
#include "thaw/train/policy_task.h"

namespace thaw {
namespace {

std::string list(const std::vector<std::string>& names) {
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

std::vector<std::string> names_of(const Features& features, FeatureType type) {
  std::vector<std::string> names;
  for (const Feature& feature : features) {
    if (feature.type == type) names.push_back(feature.name);
  }
  return names;
}

/// Cameras the policy wants from a dataset. LeRobot's "empty_camera_*" are filled by the policy itself.
std::vector<std::string> wanted_cameras(const Policy& policy) {
  std::vector<std::string> names = names_of(policy.input_features(), FeatureType::visual);
  std::erase_if(names, [](const std::string& name) { return name.find("empty_camera") != std::string::npos; });
  return names;
}

[[noreturn]] void refuse_cameras(const std::vector<std::string>& missing, const std::vector<std::string>& wanted,
                                 const std::vector<std::string>& present) {
  throw MismatchError(Problem{.where = "cameras",
                              .expected = fmt::format("the policy's {}", list(wanted)),
                              .found = fmt::format("the dataset's {} (missing: {})", list(present), list(missing)),
                              .fix = "Rename the dataset's cameras with a rename map, or allow missing cameras."});
}

void require_width(const Features& wanted, const Feature& present, const std::string& key) {
  const Feature* feature = find_feature(wanted, key);
  if (feature == nullptr || feature->shape == present.shape) return;
  throw MismatchError(
      Problem{.where = present.name,
              .expected = fmt::format("shape [{}], which the policy was made for", fmt::join(feature->shape, ", ")),
              .found = fmt::format("[{}] in the dataset", fmt::join(present.shape, ", ")),
              .fix = "Give a policy whose config.json has the dataset's width."});
}

EpisodeSplit split_by_number(const std::vector<std::int64_t>& selected, std::vector<std::int64_t> held_out) {
  std::sort(held_out.begin(), held_out.end());
  for (const std::int64_t episode : held_out) {
    if (std::binary_search(selected.begin(), selected.end(), episode)) continue;
    throw UsageError(Problem{.where = "TrainOptions.eval_episodes",
                             .expected = fmt::format("some of the {} selected episodes", selected.size()),
                             .found = fmt::format("{}", episode)});
  }
  EpisodeSplit split{.held_out = std::move(held_out)};
  std::set_difference(selected.begin(), selected.end(), split.held_out.begin(), split.held_out.end(),
                      std::back_inserter(split.training));
  if (!split.training.empty()) return split;
  throw UsageError(Problem{.where = "TrainOptions.eval_episodes",
                           .expected = "at least one episode left to train on",
                           .found = fmt::format("all {} held out", split.held_out.size())});
}

}  // namespace

std::string policy_key(const Policy& policy, const std::string& dataset_key) {
  const std::map<std::string, std::string> map = policy.preprocessor().rename_map();
  const auto found = map.find(dataset_key);
  return found == map.end() ? dataset_key : found->second;
}

void require_widths(const Policy& policy, const LeRobotDataset& dataset) {
  for (const Feature& feature : dataset.features()) {
    const std::string key = policy_key(policy, feature.name);
    if (feature.type == FeatureType::action) require_width(policy.output_features(), feature, key);
    if (feature.type == FeatureType::state) require_width(policy.input_features(), feature, key);
  }
}

Statistics renamed(const Policy& policy, const Statistics& statistics) {
  Statistics result;
  for (const auto& [key, values] : statistics) result[policy_key(policy, key)] = values;
  return result;
}

EpisodeSplit choose_episodes(const LeRobotDataset& dataset, const TrainOptions& options) {
  if (options.eval_episodes.empty()) return split_episodes(dataset, options.eval_split);
  return split_by_number(dataset.selected_episodes(), options.eval_episodes);
}

DeltaIndices policy_deltas(const Policy& policy, const LeRobotDataset& dataset) {
  const std::vector<std::int64_t> observation = policy.observation_delta_indices();
  const std::vector<std::int64_t> action = policy.action_delta_indices();
  const std::vector<std::int64_t> now = {0};
  DeltaIndices deltas;
  for (const Feature& feature : dataset.features()) {
    const std::string key = policy_key(policy, feature.name);
    if (key == "action" && !action.empty()) deltas[feature.name] = action;
    if (key.starts_with("observation.") && !observation.empty() && observation != now)
      deltas[feature.name] = observation;
  }
  return deltas;
}

std::vector<std::string> policy_cameras(const Policy& policy, const LeRobotDataset& dataset, bool allow_missing) {
  const std::vector<std::string> wanted = wanted_cameras(policy);
  const std::vector<std::string> present = names_of(dataset.features(), FeatureType::visual);
  std::vector<std::string> used;
  std::set<std::string> missing(wanted.begin(), wanted.end());
  for (const std::string& camera : present) {
    if (missing.erase(policy_key(policy, camera)) > 0) used.push_back(camera);
  }
  const bool none_fits = used.empty() && !wanted.empty();
  if (none_fits || (!missing.empty() && !allow_missing))
    refuse_cameras({missing.begin(), missing.end()}, wanted, present);
  return used;
}

std::vector<std::string> fit_processors(Policy& policy, const LeRobotDataset& training, const TrainOptions& options) {
  if (!options.rename_map.empty()) policy.preprocessor().set_rename_map(options.rename_map);
  require_widths(policy, training);
  DatasetStatistics statistics = compute_statistics(training);
  std::vector<std::string> warnings = std::move(statistics.warnings);
  const std::vector<std::string> guarded = guard_degenerate(statistics.values);
  warnings.insert(warnings.end(), guarded.begin(), guarded.end());
  const Statistics values = renamed(policy, statistics.values);
  policy.preprocessor().set_statistics(values);
  policy.postprocessor().set_statistics(values);
  return warnings;
}

}  // namespace thaw
