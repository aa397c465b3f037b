#include "thaw/freeze/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "class_names_impl.h"
#include "thaw/core/sha256.h"

namespace thaw {
namespace {

constexpr std::int64_t kMomentBytes = 2 * sizeof(float);

template <class Measure>
std::int64_t sum_over(const FreezePlan& plan, ParameterClass parameter_class, Measure measure) {
  std::int64_t sum = 0;
  for (const PlannedParameter& parameter : plan.parameters) {
    if (parameter.parameter_class == parameter_class && parameter.same_as.empty()) sum += measure(parameter);
  }
  return sum;
}

}  // namespace

std::string_view class_name(ParameterClass parameter_class) {
  switch (parameter_class) {
    case ParameterClass::trainable:
      return "trainable";
    case ParameterClass::frozen:
      return "frozen";
    case ParameterClass::dead:
      return "dead";
  }
  return "";
}

std::int64_t PlannedParameter::numel() const {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

std::int64_t PlannedParameter::bytes() const { return numel() * static_cast<std::int64_t>(c10::elementSize(dtype)); }

std::vector<std::string> FreezePlan::names(ParameterClass parameter_class) const {
  std::vector<std::string> names;
  for (const PlannedParameter& parameter : parameters) {
    if (parameter.parameter_class == parameter_class) names.push_back(parameter.name);
  }
  return names;
}

std::int64_t FreezePlan::tensors(ParameterClass parameter_class) const {
  return sum_over(*this, parameter_class, [](const PlannedParameter&) { return 1; });
}

std::int64_t FreezePlan::elements(ParameterClass parameter_class) const {
  return sum_over(*this, parameter_class, [](const PlannedParameter& parameter) { return parameter.numel(); });
}

std::int64_t FreezePlan::bytes(ParameterClass parameter_class) const {
  return sum_over(*this, parameter_class, [](const PlannedParameter& parameter) { return parameter.bytes(); });
}

std::int64_t FreezePlan::optimizer_bytes() const { return kMomentBytes * elements(ParameterClass::trainable); }

bool FreezePlan::trains(std::string_view name) const {
  const auto found = std::find_if(parameters.begin(), parameters.end(),
                                  [name](const PlannedParameter& parameter) { return parameter.name == name; });
  return found != parameters.end() && found->parameter_class == ParameterClass::trainable;
}

std::map<std::string, const PlannedParameter*> FreezePlan::by_name() const {
  std::map<std::string, const PlannedParameter*> found;
  for (const PlannedParameter& parameter : parameters) found[parameter.name] = &parameter;
  return found;
}

double FreezePlan::forward_flops() const {
  double sum = 0;
  for (const StagePlan& stage : line) sum += stage.forward_flops;
  return sum;
}

double FreezePlan::backward_flops() const {
  double sum = 0;
  for (const StagePlan& stage : line) sum += stage.backward_flops;
  return sum;
}

std::string FreezePlan::digest() const {
  Sha256 sha;
  for (const PlannedParameter& parameter : parameters) {
    // lengths first: no name can imitate the end of another
    sha.update(fmt::format("{}:{}[{}]{};", parameter.name.size(), parameter.name, fmt::join(parameter.shape, ","),
                           class_name(parameter.parameter_class)));
  }
  return sha.hex();
}

}  // namespace thaw
