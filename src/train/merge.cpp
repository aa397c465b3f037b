#include "thaw/train/merge.h"

#include <fmt/format.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <set>

#include "merged_processors_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/sha256.h"
#include "thaw/policy/policy.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/head.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

constexpr const char* kModelFile = "model.safetensors";

void require_absent(const fs::path& output) {
  if (!fs::exists(output)) return;
  throw UsageError(Problem{.where = output.string(),
                           .expected = "a folder that does not exist yet",
                           .found = "something there",
                           .fix = "Choose another output folder or remove this one."});
}

void require_same_base(const HeadInfo& info, const fs::path& model, const fs::path& head_file) {
  if (info.base_file_sha256.empty()) return;
  const std::string found = sha256_file(model);
  if (found == info.base_file_sha256) return;
  throw MismatchError(Problem{
      .where = head_file.string(),
      .expected = fmt::format("the base it was trained on, model.safetensors with SHA-256 {}", info.base_file_sha256),
      .found = fmt::format("{} with {}", model.string(), found),
      .fix = "Give the checkpoint that the run was started from."});
}

void require_fits(const SafetensorsFile& base, const Head& head, const fs::path& head_file) {
  for (const auto& [name, tensor] : head.tensors) {
    const std::string place = fmt::format("{}: {}", head_file.string(), name);
    if (!base.contains(name)) {
      throw MismatchError(
          Problem{.where = place, .expected = "a tensor of " + base.path().string(), .found = "none of this name"});
    }
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

MergeReport write_model(const SafetensorsFile& base, const Head& head, const fs::path& target) {
  MergeReport report;
  std::vector<NamedTensor> tensors;
  for (const SafetensorsEntry& entry : base.entries()) {
    const auto trained = head.tensors.find(entry.name);
    if (trained != head.tensors.end()) {
      tensors.push_back({.name = entry.name, .tensor = trained->second});
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

/// Configuration and tokenizer files: small, known kinds, and not what is written anew.
bool is_companion(const fs::path& file) {
  static const std::set<std::string> kKinds = {".json", ".txt", ".model", ".jinja"};
  return fs::is_regular_file(file) && kKinds.contains(file.extension().string()) &&
         file.filename() != "train_config.json" && !is_processor_file(file);
}

void copy_folder_files(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) {
    if (is_companion(entry.path())) fs::copy_file(entry.path(), to / entry.path().filename());
  }
}

void copy_companions(const fs::path& base_folder, const fs::path& target) {
  copy_folder_files(base_folder, target);
  const fs::path tokenizer = base_folder / "tokenizer";
  if (fs::is_directory(tokenizer)) copy_folder_files(tokenizer, target / "tokenizer");
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
  return std::all_of(head.tensors.begin(), head.tensors.end(),
                     [&base](const auto& entry) { return base.contains(entry.first); });
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
  const auto trained = static_cast<std::int64_t>(head.tensors.size());
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
