// The flags of a training run, which filling its cache shares: what they say decides what an entry holds.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "command.h"
#include "flags.h"
#include "thaw/data/dataset.h"
#include "thaw/freeze/freeze_schedule.h"
#include "thaw/policy/policy.h"
#include "thaw/train/options.h"

namespace thaw::cli {

struct TrainFlags {
  std::string policy;
  std::filesystem::path tokenizer;
  std::filesystem::path dataset;
  std::string episodes;
  FreezeFlags freeze;
  AdapterFlags lora;
  TrainOptions options;
  std::string freeze_schedule;
  std::string rotate_blocks;
  std::string cuda_graph = "auto";
  std::string precision = "auto";
  std::string device = "auto";
  std::string schedule = "cosine";
  std::string rates;
  std::string eval_episodes;
  std::string rename_map;
  std::string image_transforms;
  bool no_auto_scale = false;
  bool no_tensorboard = false;
  std::filesystem::path resume;
  std::string cache = "none";
  std::string cache_storage = "exact";
  std::string cache_memory = "2GiB";
  std::string cache_disk = "100GB";
};

/// All of them.
void add_training_flags(CLI::App& command, TrainFlags& flags);
/// Those of the frozen prefix alone: draws, cache, and how many samples go through it at a time.
void add_prefix_flags(CLI::App& command, TrainFlags& flags);

/// What was typed, as what the library takes. Strings end here. @throws UsageError
[[nodiscard]] TrainOptions train_options(const TrainFlags& flags, const CLI::App& command, const Outcome& outcome);

/// --freeze-schedule or --rotate-blocks, which `policy` must outlive; null for neither.
[[nodiscard]] std::shared_ptr<const FreezeSchedule> freeze_schedule(const TrainFlags& flags, const Policy& policy);

/// What trains in the run: the whole of its schedule, or where that is null what the rules say.
[[nodiscard]] FreezePlan freeze_plan(const TrainFlags& flags, const Policy& policy, const FreezeSchedule* schedule);

/// @throws as LeRobotDataset::open and load_policy. A policy has the adapters that the flags ask for.
[[nodiscard]] LeRobotDataset open_dataset(const TrainFlags& flags);
[[nodiscard]] std::shared_ptr<Policy> open_policy(const TrainFlags& flags, const LeRobotDataset& dataset);

/// `policy` with the adapters that the flags ask for; itself when they ask for none.
[[nodiscard]] std::shared_ptr<Policy> adapted(const TrainFlags& flags, std::shared_ptr<Policy> policy);

}  // namespace thaw::cli
