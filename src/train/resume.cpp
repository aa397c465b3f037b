#include <fmt/format.h>

#include <map>

#include "resume_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"

namespace thaw {
namespace {

using ByName = std::map<std::string, const PlannedParameter*>;

const char* class_word(ParameterClass parameter_class) {
  switch (parameter_class) {
    case ParameterClass::trainable:
      return "trainable";
    case ParameterClass::dead:
      return "dead";
    case ParameterClass::frozen:
      break;
  }
  return "frozen";
}

std::vector<std::string> plan_differences(const ByName& saved, const ByName& now) {
  std::vector<std::string> differences;
  for (const auto& [name, parameter] : saved) {
    const auto found = now.find(name);
    if (found == now.end()) {
      differences.push_back(fmt::format("{} is not in the model", name));
    } else if (found->second->shape != parameter->shape) {
      differences.push_back(fmt::format("{} had shape [{}] and has [{}]", name, fmt::join(parameter->shape, ", "),
                                        fmt::join(found->second->shape, ", ")));
    } else if (found->second->parameter_class != parameter->parameter_class) {
      differences.push_back(fmt::format("{} was {} and is {}", name, class_word(parameter->parameter_class),
                                        class_word(found->second->parameter_class)));
    }
  }
  for (const auto& entry : now) {
    if (!saved.contains(entry.first)) differences.push_back(fmt::format("{} is new", entry.first));
  }
  return differences;
}

std::vector<std::string> base_differences(const ByName& saved, const ByName& now) {
  std::vector<std::string> differences;
  for (const auto& [name, parameter] : saved) {
    const auto found = now.find(name);
    if (found != now.end() && found->second->digest != parameter->digest) {
      differences.push_back(fmt::format("{} has another content", name));
    }
  }
  return differences;
}

std::string shown(const std::vector<std::string>& differences) {
  constexpr std::size_t kShown = 8;
  if (differences.size() <= kShown) return fmt::format("{}", fmt::join(differences, "; "));
  const std::vector<std::string> first(differences.begin(), differences.begin() + kShown);
  return fmt::format("{}; and {} more", fmt::join(first, "; "), differences.size() - kShown);
}

void refuse(const RunFolder& folder, const char* expected, const std::vector<std::string>& differences,
            const char* fix) {
  if (differences.empty()) return;
  throw MismatchError(
      Problem{.where = folder.plan().string(), .expected = expected, .found = shown(differences), .fix = fix});
}

void warn_if_changed(const char* option, const std::string& was, const std::string& is) {
  if (was == is) return;
  log_warning(fmt::format("{} was {} and is {}: the resumed run differs from an uninterrupted one", option, was, is));
}

}  // namespace

void require_same_plan(const FreezePlan& plan, const RunFolder& folder) {
  const FreezePlan saved =
      FreezePlan::from_json(read_json(folder.plan(), {.max_bytes = std::size_t{256} << 20}), folder.plan().string());
  warn_if_changed("freeze rules", fmt::format("{}", fmt::join(saved.rules, "; ")),
                  fmt::format("{}", fmt::join(plan.rules, "; ")));
  const ByName then = saved.by_name();
  const ByName now = plan.by_name();
  refuse(folder, "the freeze plan the run was begun with", plan_differences(then, now),
         "Resume with the same freeze rules, or start a new run.");
  refuse(folder, "the base the run was begun on", base_differences(then, now),
         "Give the checkpoint that the run was started from.");
}

void require_same_adapters(const std::vector<Adapter>& saved, const std::vector<Adapter>& now) {
  std::map<std::string, double> scales;
  for (const Adapter& adapter : saved) scales[adapter.linear] = adapter.scale();
  for (const Adapter& adapter : now) {
    const auto found = scales.find(adapter.linear);
    if (found == scales.end() || found->second == adapter.scale()) continue;
    throw MismatchError(Problem{.where = "adapter on '" + adapter.linear + "'",
                                .expected = fmt::format("the scale the run was begun with, {}", found->second),
                                .found = fmt::format("{}", adapter.scale()),
                                .fix = "Resume with the same --lora, or start a new run."});
  }
}

void warn_of_changed_options(const TrainingState& state, const TrainOptions& options, Precision precision) {
  warn_if_changed("seed", std::to_string(state.seed), std::to_string(options.seed));
  warn_if_changed("batch_size", std::to_string(state.batch_size), std::to_string(options.batch_size));
  warn_if_changed("accumulation", std::to_string(state.accumulation), std::to_string(options.accumulation));
  warn_if_changed("draws", std::to_string(state.draws), std::to_string(options.draws));
  warn_if_changed("image transforms", state.image_transforms, options.image_transforms.text());
  warn_if_changed("precision", state.precision, std::string(precision_name(precision)));
}

}  // namespace thaw
