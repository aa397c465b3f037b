#include <fmt/format.h>

#include <set>

#include "base_folder_impl.h"
#include "merged_processors_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/sha256.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

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

}  // namespace

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

void copy_companions(const fs::path& base_folder, const fs::path& target) {
  copy_folder_files(base_folder, target);
  const fs::path tokenizer = base_folder / "tokenizer";
  if (fs::is_directory(tokenizer)) copy_folder_files(tokenizer, target / "tokenizer");
}

}  // namespace thaw
