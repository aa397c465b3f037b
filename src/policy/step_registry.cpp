// From the JSON of a step to the step.
#include <algorithm>
#include <array>
#include <functional>

#include "processor_steps_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"
#include "thaw/tensor/safetensors.h"

namespace thaw::detail {
namespace {

struct KnownStep {
  std::string_view registry_name;
  std::string_view class_name;  ///< of LeRobot: a file may name the class instead
  std::shared_ptr<ProcessorStep> (*make)(const StepSource& source);
};

template <class Step>
std::shared_ptr<ProcessorStep> make_step(const StepSource& source) {
  return std::make_shared<Step>(source);
}

constexpr std::array<KnownStep, 11> kSteps{{
    {"rename_observations_processor", "RenameObservationsProcessorStep", make_step<RenameStep>},
    {"to_batch_processor", "AddBatchDimensionProcessorStep", make_step<ToBatchStep>},
    {"smolvla_new_line_processor", "NewLineTaskProcessorStep",
     [](const StepSource& source) -> std::shared_ptr<ProcessorStep> {
       return std::make_shared<NewLineStep>("smolvla_new_line_processor", source);
     }},
    {"pi0_new_line_processor", "Pi0NewLineProcessor",
     [](const StepSource& source) -> std::shared_ptr<ProcessorStep> {
       return std::make_shared<NewLineStep>("pi0_new_line_processor", source);
     }},
    {"tokenizer_processor", "TokenizerProcessorStep", make_step<TokenizerStep>},
    {"device_processor", "DeviceProcessorStep", make_step<DeviceStep>},
    {"normalizer_processor", "NormalizerProcessorStep",
     [](const StepSource& source) -> std::shared_ptr<ProcessorStep> {
       return std::make_shared<NormalizerStep>(NormalizerStep::Direction::forward, source);
     }},
    {"unnormalizer_processor", "UnnormalizerProcessorStep",
     [](const StepSource& source) -> std::shared_ptr<ProcessorStep> {
       return std::make_shared<NormalizerStep>(NormalizerStep::Direction::inverse, source);
     }},
    {"relative_actions_processor", "RelativeActionsProcessorStep", make_step<RelativeActionsStep>},
    {"absolute_actions_processor", "AbsoluteActionsProcessorStep", make_step<AbsoluteActionsStep>},
    {"pi05_prepare_state_tokenizer_processor_step", "Pi05PrepareStateTokenizerProcessorStep",
     make_step<Pi05PromptStep>},
}};

[[noreturn]] void throw_unknown_step(const std::string& name, const std::string& where) {
  std::vector<std::string> known;
  for (const KnownStep& step : kSteps) known.emplace_back(step.registry_name);
  throw FormatError(Problem{.where = where,
                            .expected = "a processor step that thaw knows",
                            .found = "'" + name + "'",
                            .fix = suggest(name, known)});
}

const KnownStep& by_registry_name(const std::string& name, const std::string& where) {
  for (const KnownStep& step : kSteps) {
    if (step.registry_name == name) return step;
  }
  throw_unknown_step(name, where);
}

/// "lerobot.processor.device_processor.DeviceProcessorStep": any module of LeRobot, since classes move between
/// versions.
const KnownStep& by_class_path(const std::string& path, const std::string& where) {
  const std::size_t dot = path.rfind('.');
  if (dot != std::string::npos && path.starts_with("lerobot.")) {
    for (const KnownStep& step : kSteps) {
      if (path.substr(dot + 1) == step.class_name) return step;
    }
  }
  throw_unknown_step(path, where);
}

const KnownStep& known_step(const Json& entry, const std::string& where) {
  if (entry.is_object() && entry.contains("registry_name")) {
    return by_registry_name(json_field<std::string>(entry, "registry_name", where), where);
  }
  if (entry.is_object() && entry.contains("class")) {
    return by_class_path(json_field<std::string>(entry, "class", where), where);
  }
  throw FormatError(Problem{.where = where,
                            .expected = "an object with 'registry_name' or 'class'",
                            .found = std::string(entry.type_name())});
}

/// The state file named by a step: a plain file name beside the pipeline file, never a path.
std::map<std::string, at::Tensor> read_state(const Json& entry, const StepSource& source) {
  const auto name = json_field_or<std::string>(entry, "state_file", "", source.where);
  if (name.empty()) return {};
  const bool plain = name.find_first_of("/\\") == std::string::npos && name.ends_with(".safetensors");
  if (!plain) {
    throw FormatError(Problem{.where = source.where + ", field 'state_file'",
                              .expected = "the plain name of a .safetensors file",
                              .found = "'" + name + "'"});
  }
  return read_safetensors(source.folder / name);
}

std::map<std::string, std::string> read_artifacts(const Json& entry, const std::string& where) {
  std::map<std::string, std::string> artifacts;
  const Json object = json_field_or<Json>(entry, "artifacts", Json::object(), where);
  if (!object.is_object()) {
    throw FormatError(Problem{.where = where + ", field 'artifacts'", .expected = "an object of strings"});
  }
  for (const auto& [key, folder] : object.items()) artifacts[key] = json_field<std::string>(object, key, where);
  return artifacts;
}

void check_extras_are_used(const StepSource& source, const KnownStep& known) {
  const bool takes_state = known.registry_name.ends_with("normalizer_processor");
  if (!source.state.empty() && !takes_state) {
    throw FormatError(Problem{.where = source.where, .expected = "a step without a state file", .found = "one"});
  }
  for (const auto& [key, folder] : source.artifacts) {
    if (known.registry_name == "tokenizer_processor" && key == "tokenizer_name") continue;
    throw FormatError(Problem{.where = source.where + ", field 'artifacts'",
                              .expected = "'tokenizer_name' of a tokenizer step only",
                              .found = "'" + key + "'"});
  }
}

}  // namespace

void check_config_keys(const Json& config, std::initializer_list<std::string_view> known, const std::string& where) {
  for (const auto& [key, value] : config.items()) {
    if (value.is_null() || std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::vector<std::string> names(known.begin(), known.end());
    throw FormatError(Problem{.where = where + ", config",
                              .expected = names.empty() ? "no options" : "options that thaw knows",
                              .found = "'" + key + "'",
                              .fix = names.empty() ? std::string{} : suggest(key, names)});
  }
}

void check_task_key(const std::string& task_key, const std::string& where) {
  if (task_key == "task") return;
  throw FormatError(
      Problem{.where = where + ", field 'task_key'", .expected = "'task'", .found = "'" + task_key + "'"});
}

std::shared_ptr<ProcessorStep> step_from_json(const Json& entry, std::size_t index, const std::filesystem::path& file,
                                              const TokenizerSearch& tokenizers) {
  StepSource source;
  source.where = file.string() + ", step " + std::to_string(index);
  const KnownStep& known = known_step(entry, source.where);
  source.where += " (" + std::string(known.registry_name) + ")";
  source.folder = file.parent_path();
  source.tokenizers = tokenizers;
  source.config = json_field_or<Json>(entry, "config", Json::object(), source.where);
  if (!source.config.is_object()) {
    throw FormatError(Problem{
        .where = source.where + ", field 'config'", .expected = "an object", .found = source.config.type_name()});
  }
  source.artifacts = read_artifacts(entry, source.where);
  source.state = read_state(entry, source);
  check_extras_are_used(source, known);
  return known.make(source);
}

}  // namespace thaw::detail
