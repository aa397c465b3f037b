#include "thaw/policy/processor.h"

#include <algorithm>

#include "processor_steps_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {
namespace {

using Steps = std::vector<std::shared_ptr<ProcessorStep>>;

/// File names are built from it.
void check_name(const std::string& name) {
  const bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
  if (plain) return;
  throw UsageError(Problem{.where = "processor pipeline",
                           .expected = "a name of lower-case letters, digits and underscores",
                           .found = "'" + name + "'"});
}

Steps cloned(const Steps& steps) {
  Steps copies;
  copies.reserve(steps.size());
  for (const auto& step : steps) copies.push_back(step->clone());
  return copies;
}

template <class Step>
Step* first_of(const Steps& steps) {
  for (const auto& step : steps) {
    if (auto* found = dynamic_cast<Step*>(step.get())) return found;
  }
  return nullptr;
}

template <class Step, class Change>
void for_each_of(const Steps& steps, Change change) {
  for (const auto& step : steps) {
    if (auto* found = dynamic_cast<Step*>(step.get())) change(*found);
  }
}

void write_state(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& state) {
  std::vector<NamedTensor> tensors;
  tensors.reserve(state.size());
  for (const auto& [name, tensor] : state) tensors.push_back({.name = name, .tensor = tensor});
  write_safetensors(path, tensors);
}

/// Artifacts whose folder the destination holds: a name of a missing folder would make the file unloadable.
Json artifacts_in(const std::filesystem::path& folder, const ProcessorStep& step) {
  Json artifacts = Json::object();
  for (const auto& [key, artifact] : step.artifacts()) {
    if (std::filesystem::is_directory(folder / artifact)) artifacts[key] = artifact;
  }
  return artifacts;
}

}  // namespace

ProcessorPipeline::ProcessorPipeline(std::string name, std::vector<std::shared_ptr<ProcessorStep>> steps)
    : name_(std::move(name)), steps_(std::move(steps)) {
  check_name(name_);
}

ProcessorPipeline::ProcessorPipeline(const ProcessorPipeline& other)
    : name_(other.name_), steps_(cloned(other.steps_)) {}

ProcessorPipeline& ProcessorPipeline::operator=(const ProcessorPipeline& other) {
  ProcessorPipeline copy(other);
  *this = std::move(copy);
  return *this;
}

ProcessorPipeline ProcessorPipeline::load(const std::filesystem::path& folder, const std::string& name,
                                          const TokenizerSearch& tokenizers) {
  constexpr std::size_t kMostSteps = 256;
  check_name(name);
  const std::filesystem::path file = folder / (name + ".json");
  const auto entries = json_field<std::vector<Json>>(read_json(file), "steps", file.string());
  if (entries.size() > kMostSteps) {
    throw FormatError(Problem{.where = file.string(),
                              .expected = "at most " + std::to_string(kMostSteps) + " steps",
                              .found = std::to_string(entries.size())});
  }
  Steps steps;
  for (const Json& entry : entries) steps.push_back(detail::step_from_json(entry, steps.size(), file, tokenizers));
  return {name, std::move(steps)};
}

void ProcessorPipeline::save(const std::filesystem::path& folder) const {
  Json entries = Json::array();
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const ProcessorStep& step = *steps_[i];
    const std::string registry_name = step.registry_name();
    Json entry{{"registry_name", registry_name}, {"config", parse_json(step.config_json(), registry_name)}};
    if (const auto state = step.state(); !state.empty()) {
      const std::string file = name_ + "_step_" + std::to_string(i) + "_" + registry_name + ".safetensors";
      write_state(folder / file, state);
      entry["state_file"] = file;
    }
    if (Json artifacts = artifacts_in(folder, step); !artifacts.empty()) entry["artifacts"] = std::move(artifacts);
    entries.push_back(std::move(entry));
  }
  const Json document{{"name", name_}, {"steps", std::move(entries)}};
  write_text_atomic(folder / (name_ + ".json"), document.dump(2, ' ', /*ensure_ascii=*/true));
}

Batch ProcessorPipeline::operator()(Batch batch) const {
  images_to_float(batch);
  for (const auto& step : steps_) step->apply(batch);
  return batch;
}

void ProcessorPipeline::set_statistics(const Statistics& statistics) {
  for_each_of<detail::NormalizerStep>(steps_, [&](auto& step) { step.set_statistics(statistics); });
}

Statistics ProcessorPipeline::statistics() const {
  const auto* step = first_of<detail::NormalizerStep>(steps_);
  return step == nullptr ? Statistics{} : step->statistics();
}

void ProcessorPipeline::set_features(const Features& features) {
  for_each_of<detail::NormalizerStep>(steps_, [&](auto& step) { step.set_features(features); });
}

void ProcessorPipeline::set_device(at::Device device) {
  for_each_of<detail::DeviceStep>(steps_, [&](auto& step) { step.set_device(device); });
}

void ProcessorPipeline::set_rename_map(const std::map<std::string, std::string>& map) {
  auto* step = first_of<detail::RenameStep>(steps_);
  if (step == nullptr) {
    throw MismatchError(Problem{.where = "rename map",
                                .expected = "a rename_observations_processor in " + name_,
                                .found = "none",
                                .fix = "Rename the dataset's keys instead."});
  }
  step->set_map(map);
}

std::map<std::string, std::string> ProcessorPipeline::rename_map() const {
  const auto* step = first_of<detail::RenameStep>(steps_);
  return step == nullptr ? std::map<std::string, std::string>{} : step->map();
}

std::shared_ptr<const Tokenizer> ProcessorPipeline::tokenizer() const {
  const auto* step = first_of<detail::TokenizerStep>(steps_);
  return step == nullptr ? nullptr : step->tokenizer();
}

Batch postprocessor_input(const Batch& preprocessed, at::Tensor actions) {
  Batch batch{.tensors = {}, .tasks = preprocessed.tasks, .indices = preprocessed.indices};
  batch.tensors["action"] = std::move(actions);
  const auto reference = preprocessed.tensors.find(kActionReferenceKey);
  if (reference != preprocessed.tensors.end()) batch.tensors.insert(*reference);
  return batch;
}

}  // namespace thaw
