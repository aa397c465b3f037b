#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <algorithm>

#include "processor_steps_impl.h"
#include "thaw/core/error.h"
#include "utf8_impl.h"

namespace thaw {
namespace detail {
namespace {

Json to_json(const RelativeActionOptions& options) {
  return Json{{"enabled", options.enabled},
              {"exclude_joints", options.exclude_joints},
              {"action_names", options.action_names ? Json(*options.action_names) : Json(nullptr)}};
}

RelativeActionOptions parse_relative_options(const Json& config, const std::string& where) {
  check_config_keys(config, {"enabled", "exclude_joints", "action_names"}, where);
  RelativeActionOptions options;
  options.enabled = json_field_or(config, "enabled", false, where);
  options.exclude_joints = json_field_or(config, "exclude_joints", std::vector<std::string>{}, where);
  if (config.contains("action_names") && !config["action_names"].is_null()) {
    options.action_names = json_field<std::vector<std::string>>(config, "action_names", where);
  }
  return options;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

bool is_excluded(const std::string& action_name, const std::vector<std::string>& exclude_joints) {
  const std::string name = lower(action_name);
  return std::any_of(exclude_joints.begin(), exclude_joints.end(), [&](const std::string& joint) {
    return !joint.empty() && name.find(lower(joint)) != std::string::npos;
  });
}

/// Adds `sign` times the reference to an action (B, D) or (B, T, D).
at::Tensor shifted(const at::Tensor& action, const at::Tensor& reference, double sign) {
  const std::int64_t width = action.dim() == 0 ? 0 : action.size(-1);
  const bool fits = (action.dim() == 2 || action.dim() == 3) && reference.dim() == 2 && reference.size(1) >= width &&
                    reference.size(0) == action.size(0);
  if (!fits) {
    throw MismatchError(Problem{.where = "relative actions",
                                .expected = "a state (B, at least D) for an action (B, D) or (B, T, D)",
                                .found = c10::str("state ", reference.sizes(), " and action ", action.sizes())});
  }
  at::Tensor offset = reference.slice(1, 0, width).to(action.device(), action.scalar_type());
  if (action.dim() == 3) offset = offset.unsqueeze(1);
  return action + offset * sign;
}

}  // namespace

RelativeActionsStep::RelativeActionsStep(RelativeActionOptions options)
    : ConfiguredStep(to_json(options)), options_(std::move(options)) {}

RelativeActionsStep::RelativeActionsStep(const StepSource& source)
    : ConfiguredStep(source.config), options_(parse_relative_options(source.config, source.where)) {}

/// The state with zeros where the action stays absolute. Dimensions beyond the action's names are relative.
at::Tensor RelativeActionsStep::reference(const at::Tensor& state) const {
  at::Tensor result = state.clone();
  if (!options_.action_names) return result;
  const auto& names = *options_.action_names;
  const std::int64_t named = std::min(static_cast<std::int64_t>(names.size()), state.size(-1));
  for (std::int64_t i = 0; i < named; ++i) {
    if (is_excluded(names[static_cast<std::size_t>(i)], options_.exclude_joints)) result.select(-1, i).zero_();
  }
  return result;
}

void RelativeActionsStep::apply(Batch& batch) const {
  if (!options_.enabled || !batch.has(kStateKey)) return;
  const at::Tensor reference_state = reference(batch.at(kStateKey));
  const auto action = batch.tensors.find(kActionKey);
  if (action != batch.tensors.end()) action->second = shifted(action->second, reference_state, -1.0);
  batch.tensors[kActionReferenceKey] = reference_state;
}

AbsoluteActionsStep::AbsoluteActionsStep(bool enabled)
    : ConfiguredStep(Json{{"enabled", enabled}}), enabled_(enabled) {}

AbsoluteActionsStep::AbsoluteActionsStep(const StepSource& source)
    : ConfiguredStep(source.config), enabled_(json_field_or(config_, "enabled", false, source.where)) {
  check_config_keys(config_, {"enabled"}, source.where);
}

void AbsoluteActionsStep::apply(Batch& batch) const {
  const auto action = batch.tensors.find(kActionKey);
  if (!enabled_ || action == batch.tensors.end()) return;
  action->second = shifted(action->second, batch.at(kActionReferenceKey), 1.0);
}

}  // namespace detail

std::shared_ptr<ProcessorStep> make_relative_actions_step(RelativeActionOptions options) {
  return std::make_shared<detail::RelativeActionsStep>(std::move(options));
}

std::shared_ptr<ProcessorStep> make_absolute_actions_step(bool enabled) {
  return std::make_shared<detail::AbsoluteActionsStep>(enabled);
}

}  // namespace thaw
