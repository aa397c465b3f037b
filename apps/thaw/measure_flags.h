// The flags of measuring blocks on calibration samples, which thaw inspect and thaw prune share.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "thaw/study/measure.h"
#include "thaw/study/prune.h"

namespace thaw::cli {

struct MeasureFlags {
  std::filesystem::path dataset;
  std::filesystem::path tokenizer;
  std::string episodes;
  std::string rename_map;
  MeasureOptions options;

  /// --dataset, --samples, --seed and what reading needs.
  void add_to(CLI::App& command);
};

/// Measures the policy in `folder` on the dataset of the flags; its weights are read as float32.
/// `base`: a folder to measure divergence from, or empty. @throws UsageError without a dataset; as measure_policy
[[nodiscard]] MeasureReport measure(const std::filesystem::path& folder, const MeasureFlags& flags,
                                    const MeasureOptions& options, const std::filesystem::path& base = {});

/// The measures that choosing blocks by these options looks at. @throws as measure
[[nodiscard]] MeasureReport measure_for_pruning(const std::filesystem::path& folder, const MeasureFlags& flags,
                                                const PruneOptions& options, const ModelLayout& layout);

}  // namespace thaw::cli
