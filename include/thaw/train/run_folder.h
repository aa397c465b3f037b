/// The folder of a run, held by this process alone while the object lives.
///
///     run/config.toml  plan.json  metrics.jsonl  events.out.tfevents.*
///         checkpoints/000200/{head,optimizer,ema}.safetensors, state.json, MANIFEST.json
///         heads/last/head.safetensors
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "thaw/core/files.h"

namespace thaw {

class RunFolder {
 public:
  /// Locks `root`, creating it for a new run. Nothing but the lock file is written. Open it before loading anything.
  /// @throws IoError when another process trains there, or when it cannot be created; UsageError when `resume` is false
  /// and it holds a run already, or `resume` is true and it holds none
  RunFolder(std::filesystem::path root, bool resume);
  /// Unlocks. A folder that this object made and nobody wrote a run into is removed again.
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& root() const noexcept { return root_; }
  [[nodiscard]] std::filesystem::path plan() const { return root_ / "plan.json"; }
  [[nodiscard]] std::filesystem::path config() const { return root_ / "config.toml"; }
  [[nodiscard]] std::filesystem::path metrics() const { return root_ / "metrics.jsonl"; }
  [[nodiscard]] std::filesystem::path checkpoints() const { return root_ / "checkpoints"; }
  [[nodiscard]] std::filesystem::path last_head() const { return root_ / "heads" / "last" / "head.safetensors"; }
  [[nodiscard]] std::filesystem::path ema_head() const { return root_ / "heads" / "ema" / "head.safetensors"; }

 private:
  std::filesystem::path root_;
  bool created_ = false;
  std::unique_ptr<DirectoryLock> lock_;
};

}  // namespace thaw
