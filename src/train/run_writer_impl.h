// What a run leaves on disk, and what it takes up again: plan and configuration, checkpoints, heads.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "engine_impl.h"
#include "thaw/freeze/plan.h"
#include "thaw/policy/policy.h"
#include "thaw/train/head.h"
#include "thaw/train/observer.h"
#include "thaw/train/options.h"
#include "thaw/train/run_folder.h"

namespace thaw {

class RunWriter {
 public:
  /// `folder` null: nothing can be saved, heads can be made. `policy` null: a plain module.
  RunWriter(std::shared_ptr<RunFolder> folder, const TrainOptions& options, const FreezePlan& plan, Engine& engine,
            std::shared_ptr<Policy> policy);

  /// Loads the newest good checkpoint. False: the run was stopped before its first one, and begins again.
  /// @throws MismatchError (another plan or base), FormatError (only bad checkpoints)
  bool resume(Precision precision);

  /// plan.json and config.toml, once.
  void write_beginning();
  /// @throws IoError, CheckFailed (a frozen tensor moved), UsageError (no folder)
  SaveReport save();
  /// A save that fails leaves what was there, is told, and is tried again at the next interval; nullopt then.
  /// @throws IoError at the third failure in a row; CheckFailed
  std::optional<SaveReport> try_save();

  /// `tensors` with what binds them to the base.
  [[nodiscard]] Head head(std::map<std::string, at::Tensor> tensors) const;

  [[nodiscard]] const std::shared_ptr<RunFolder>& folder() const noexcept { return folder_; }
  [[nodiscard]] std::optional<std::int64_t> saved_step() const noexcept { return saved_step_; }

 private:
  void write_heads(const Head& trained) const;
  void note_failed_save(const std::string& reason);

  std::shared_ptr<RunFolder> folder_;
  const TrainOptions& options_;
  const FreezePlan& plan_;
  Engine& engine_;
  std::shared_ptr<Policy> policy_;
  std::string base_file_sha256_;
  bool begun_ = false;
  std::optional<std::int64_t> saved_step_;
  int failed_saves_ = 0;
};

/// <file> with its folder. @throws IoError
void publish_head(const std::filesystem::path& file, const Head& head);

}  // namespace thaw
