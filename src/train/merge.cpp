#include "thaw/train/merge.h"

#include <fmt/format.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <set>

#include "base_folder_impl.h"
#include "merged_processors_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/sha256.h"
#include "thaw/policy/adapters.h"
#include "thaw/policy/policy.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/head.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr const char* kModelFile = "model.safetensors";

/// Names of the base's tensors that the head gives another value.
std::vector<std::string> replaced_names(const Head& head) {
  std::vector<std::string> names;
  for (const auto& entry : head.tensors) {
    if (!is_adapter_parameter(entry.first)) names.push_back(entry.first);
  }
  for (const Adapter& adapter : head.info.adapters) names.push_back(adapter.linear + ".weight");
  return names;
}

void require_fits(const SafetensorsFile& base, const Head& head, const fs::path& head_file) {
  for (const std::string& name : replaced_names(head)) {
    const std::string place = fmt::format("{}: {}", head_file.string(), name);
    if (!base.contains(name)) {
      throw MismatchError(
          Problem{.where = place, .expected = "a tensor of " + base.path().string(), .found = "none of this name"});
    }
    const auto own = head.tensors.find(name);
    if (own == head.tensors.end()) continue;  // an adapter's layer: merging checks its shapes
    const at::Tensor& tensor = own->second;
    const std::vector<std::int64_t>& shape = base.entry(name).shape;
    if (tensor.sizes() != at::IntArrayRef(shape)) {
      throw MismatchError(Problem{.where = place,
                                  .expected = fmt::format("shape [{}]", fmt::join(shape, ", ")),
                                  .found = fmt::format("[{}]", fmt::join(tensor.sizes(), ", "))});
    }
  }
}

/// Older LeRobot files carry the statistics inside the model; the processors hold them now.
bool is_legacy_statistic(const std::string& name) {
  for (const char* prefix :
       {"normalize_inputs.", "normalize_targets.", "unnormalize_outputs.", "normalize.", "unnormalize."}) {
    if (name.starts_with(prefix)) return true;
  }
  return false;
}

/// What the head makes of a tensor of the base; undefined when it leaves it alone.
at::Tensor replacement(const SafetensorsFile& base, const Head& head, const std::string& name) {
  const auto trained = head.tensors.find(name);
  if (trained != head.tensors.end()) return trained->second;
  const bool adapted = std::any_of(head.info.adapters.begin(), head.info.adapters.end(),
                                   [&name](const Adapter& adapter) { return adapter.linear + ".weight" == name; });
  return adapted ? adapted_weight(head, name, base.read(name)) : at::Tensor();
}

MergeReport write_model(const SafetensorsFile& base, const Head& head, const fs::path& target) {
  MergeReport report;
  std::vector<NamedTensor> tensors;
  for (const SafetensorsEntry& entry : base.entries()) {
    if (const at::Tensor replaced = replacement(base, head, entry.name); replaced.defined()) {
      tensors.push_back({.name = entry.name, .tensor = replaced});
      ++report.replaced_tensors;
    } else if (!is_legacy_statistic(entry.name)) {
      tensors.push_back({.name = entry.name, .tensor = base.read(entry.name)});
      ++report.kept_tensors;
    }
  }
  write_safetensors(target, tensors, base.metadata());
  report.bytes = fs::file_size(target);
  return report;
}

/// The trained tensors in the head's own dtype, whatever the base had.
void give_trained(torch::nn::Module& module, const Head& head) {
  auto parameters = module.named_parameters();
  for (const auto& [name, tensor] : head.tensors) {
    if (parameters.contains(name)) parameters[name].set_data(tensor);
  }
}

}  // namespace

bool merges_file_by_file(const fs::path& base_folder, const fs::path& head_file) {
  const fs::path model = base_folder / kModelFile;
  if (!fs::exists(model)) return false;
  const SafetensorsFile base(model);
  const Head head = read_head(head_file);
  const std::vector<std::string> names = replaced_names(head);
  return std::all_of(names.begin(), names.end(), [&base](const std::string& name) { return base.contains(name); });
}

MergeReport merge_head(Policy& base, const fs::path& head_file, const fs::path& output) {
  require_absent(output);
  load_head(base, head_file);
  const Head head = read_head(head_file);
  give_trained(*base.module(), head);

  if (!output.parent_path().empty()) fs::create_directories(output.parent_path());
  StagedDirectory staged(output);
  copy_companions(base.source(), staged.path());
  fs::remove(staged.path() / (std::string(kModelFile) + ".index.json"));
  base.save_pretrained(staged.path());
  const auto all = static_cast<std::int64_t>(base.layout().parameters.size());
  const auto trained = static_cast<std::int64_t>(replaced_names(head).size());
  const MergeReport report{
      .replaced_tensors = trained, .kept_tensors = all - trained, .bytes = fs::file_size(staged.path() / kModelFile)};
  staged.commit();
  return report;
}

MergeReport merge_head(const fs::path& base_folder, const fs::path& head_file, const fs::path& output) {
  require_absent(output);
  const Head head = read_head(head_file);
  const SafetensorsFile base(base_folder / kModelFile);
  require_same_base(head.info, base.path(), head_file);
  require_fits(base, head, head_file);
  const MergedProcessors processors(base_folder, head);

  if (!output.parent_path().empty()) fs::create_directories(output.parent_path());
  StagedDirectory staged(output);
  const MergeReport report = write_model(base, head, staged.path() / kModelFile);
  processors.write(staged.path());
  copy_companions(base_folder, staged.path());
  staged.commit();
  return report;
}

}  // namespace thaw
