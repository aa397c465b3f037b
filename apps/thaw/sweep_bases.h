// The bases of a sweep with --prune: the policy as it is, and without some of its blocks, chosen as thaw prune does.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "thaw/study/measure.h"
#include "thaw/study/prune.h"
#include "thaw/study/sweep_subject.h"
#include "train_flags.h"

namespace thaw::cli {

struct SweepPruneFlags {
  std::string counts;
  std::string stack;
  std::string method;
  std::string order;
  std::int64_t samples = MeasureOptions{}.samples;

  void add_to(CLI::App& command);
  /// Names of the flags, for what is not written into the configuration of a run.
  [[nodiscard]] static std::vector<std::string> names();
};

/// Each pruned base is a checkpoint of its own in OUTPUT/bases/COUNT, with pruning.json beside it: written once, read
/// by every process and whenever the sweep goes on, and what its points' heads belong to.
class SweepBases {
 public:
  /// `swept`: what --stack says. @throws UsageError for flags that do not go together
  SweepBases(const SweepPruneFlags& flags, const TrainFlags& train, const std::string& swept);

  /// Whether some base is pruned.
  [[nodiscard]] bool wanted() const;
  /// What decides which blocks leave, for the setting of the sweep.
  [[nodiscard]] Json question() const;
  /// Chooses blocks for the bases that are not written yet, measuring once on frames of the training episodes, and
  /// looks whether the grid fits what is left. Writes nothing. @throws UsageError as choose_blocks and sweep_freezes
  void choose(const LeRobotDataset& dataset, const TrainOptions& options, const SweepGrid& grid);
  /// Writes what was chosen. @throws IoError
  void write();
  /// Of all bases, in the order of their counts. @throws IoError, FormatError when one is not written
  [[nodiscard]] std::vector<SweepBaseSource> sources(const LeRobotDataset& dataset) const;
  /// The checkpoint that a point's head belongs to.
  [[nodiscard]] std::filesystem::path folder(const SweepPruning& pruning) const;

 private:
  [[nodiscard]] PruneOptions options_for(std::int64_t count) const;
  [[nodiscard]] MeasureReport measured(const ModelLayout& layout, const LeRobotDataset& dataset,
                                       const TrainOptions& options) const;

  SweepPruneFlags flags_;
  TrainFlags train_;
  std::string stack_;
  std::vector<std::int64_t> counts_;  ///< ascending
  std::vector<std::int64_t> order_;   ///< by hand
  std::shared_ptr<Policy> whole_;     ///< until the chosen ones are written
  std::map<std::int64_t, PruningChoice> chosen_;
};

}  // namespace thaw::cli
