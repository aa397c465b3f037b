#include <ATen/ATen.h>
#include <fmt/format.h>

#include "merged_processors_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr const char* kPipelines[] = {"policy_preprocessor", "policy_postprocessor"};

bool normalises(const std::string& step) { return step == "normalizer_processor" || step == "unnormalizer_processor"; }

/// LeRobot's state file: "<feature>.<statistic>" -> float32.
std::map<std::string, at::Tensor> flatten(const Statistics& statistics) {
  std::map<std::string, at::Tensor> flat;
  for (const auto& [feature, values] : statistics) {
    for (const auto& [statistic, tensor] : values) {
      flat[fmt::format("{}.{}", feature, statistic)] = tensor.to(at::kFloat);
    }
  }
  return flat;
}

/// State files lie beside the JSON. A name with a folder in it would write somewhere else.
const std::string& require_plain_name(const std::string& name, const std::string& where) {
  if (!name.empty() && fs::path(name).filename() == name && name != "." && name != "..") return name;
  throw FormatError(Problem{.where = where + ": state_file", .expected = "a plain file name", .found = name});
}

std::string state_file_of(Json& step, const std::string& pipeline, std::size_t index, const std::string& registry,
                          const std::string& where) {
  const auto given = json_field_or<std::string>(step, "state_file", "", where);
  if (!given.empty()) return require_plain_name(given, where);
  const std::string name = fmt::format("{}_step_{}_{}.safetensors", pipeline, index, registry);
  step["state_file"] = name;
  return name;
}

}  // namespace

bool is_processor_file(const fs::path& file) {
  const std::string name = file.filename().string();
  return std::any_of(std::begin(kPipelines), std::end(kPipelines),
                     [&](const char* pipeline) { return name.starts_with(pipeline); });
}

MergedProcessors::MergedProcessors(const fs::path& base_folder, const Head& head) {
  for (const char* name : kPipelines) add_pipeline(base_folder, name, head);
}

void MergedProcessors::add_pipeline(const fs::path& base_folder, const std::string& name, const Head& head) {
  const fs::path path = base_folder / (name + ".json");
  if (!fs::exists(path)) {
    throw UsageError(
        Problem{.where = path.string(),
                .expected = "the base's processor file",
                .found = "none",
                .fix = "An older LeRobot checkpoint keeps its statistics inside the model: load it and save it "
                       "again, then train and merge on the new folder."});
  }
  Json pipeline = read_json(path);
  if (!pipeline.is_object() || !pipeline.contains("steps") || !pipeline["steps"].is_array()) {
    throw FormatError(
        Problem{.where = path.string(), .expected = "an object with a list 'steps'", .found = "another one"});
  }
  for (std::size_t index = 0; index < pipeline["steps"].size(); ++index) {
    Json& step = pipeline["steps"][index];
    const std::string where = fmt::format("{}: steps[{}]", path.string(), index);
    const auto registry = json_field_or<std::string>(step, "registry_name", "", where);
    if (normalises(registry) && !head.statistics.empty()) {
      states_[state_file_of(step, name, index, registry, where)] = flatten(head.statistics);
    } else if (const auto file = json_field_or<std::string>(step, "state_file", "", where); !file.empty()) {
      states_[file] = read_safetensors(base_folder / require_plain_name(file, where));
    }
    if (registry == "rename_observations_processor" && !head.info.rename_map.empty()) {
      step["config"]["rename_map"] = head.info.rename_map;
    }
  }
  pipelines_[name + ".json"] = std::move(pipeline);
}

void MergedProcessors::write(const fs::path& folder) const {
  for (const auto& [name, pipeline] : pipelines_) write_text_atomic(folder / name, pipeline.dump(2));
  for (const auto& [name, tensors] : states_) {
    std::vector<NamedTensor> list;
    for (const auto& [key, tensor] : tensors) list.push_back({.name = key, .tensor = tensor});
    write_safetensors(folder / name, list);
  }
}

}  // namespace thaw
