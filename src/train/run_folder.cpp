#include "thaw/train/run_folder.h"

#include <fmt/format.h>

#include <system_error>

#include "thaw/core/error.h"

namespace thaw {
namespace fs = std::filesystem;
namespace {

bool holds_run(const fs::path& root) { return fs::exists(root / "plan.json") || fs::exists(root / "checkpoints"); }

void require_no_run(const fs::path& root) {
  if (!holds_run(root)) return;
  throw UsageError(Problem{.where = root.string(),
                           .expected = "a folder without a run",
                           .found = "a run that was begun there",
                           .fix = "Resume it (--resume), or choose another folder."});
}

void require_run(const fs::path& root) {
  if (holds_run(root)) return;
  throw UsageError(Problem{.where = root.string(),
                           .expected = "a run to resume (plan.json, checkpoints/)",
                           .found = fs::exists(root) ? "a folder without one" : "nothing there",
                           .fix = "Start it without resuming."});
}

void create(const fs::path& root) {
  std::error_code error;
  fs::create_directories(root, error);
  if (error) {
    throw IoError(Problem{.where = root.string(), .expected = "a folder to write into", .found = error.message()});
  }
}

}  // namespace

RunFolder::RunFolder(fs::path root, bool resume) : root_(std::move(root)) {
  if (resume) {
    require_run(root_);
  } else {
    created_ = !fs::exists(root_);
    create(root_);
  }
  lock_ = std::make_unique<DirectoryLock>(root_);
  if (!resume) require_no_run(root_);
}

RunFolder::~RunFolder() {
  if (!created_ || holds_run(root_)) return;
  std::error_code ignored;  // what else somebody put there keeps the folder
  fs::remove(root_ / ".lock", ignored);
  fs::remove(root_, ignored);
}

}  // namespace thaw
