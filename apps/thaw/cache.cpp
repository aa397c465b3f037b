// thaw cache: fills the prefix cache of a training run before the run.
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <csignal>
#include <iostream>
#include <memory>

#include "command.h"
#include "thaw/core/error.h"
#include "thaw/core/json.h"
#include "thaw/core/progress.h"
#include "thaw/freeze/apply.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/precision.h"
#include "thaw/train/signals.h"
#include "train_flags.h"

namespace thaw::cli {
namespace {

void require_cache(const PrefixOptions& prefix) {
  const bool asks = prefix.cache != CacheCut::none && !prefix.store.folder.empty();
  if (asks) return;
  throw UsageError(Problem{.where = "thaw cache",
                           .expected = "--cache auto, vision, hidden or kv, and --cache-dir DIR",
                           .found = prefix.store.folder.empty() ? "no --cache-dir" : "--cache none"});
}

Json as_json(const CacheStatistics& statistics, bool complete, const std::filesystem::path& folder) {
  return {{"folder", folder.string()},           {"complete", complete},
          {"entries", statistics.entries},       {"stored", statistics.stored},
          {"disk_bytes", statistics.disk_bytes}, {"damaged", statistics.damaged}};
}

ExitCode exit_code(bool complete) {
  if (complete) return ExitCode::ok;
  return stop_signal() == SIGTERM ? ExitCode::terminated : ExitCode::interrupted;
}

void run_cache(const TrainFlags& flags, const CLI::App& command, Outcome& outcome) {
  const TrainOptions options = train_options(flags, command, outcome);
  require_cache(options.prefix);
  const LeRobotDataset dataset = open_dataset(flags);
  const std::shared_ptr<Policy> policy = open_policy(flags, dataset);
  FreezePlan plan = freeze_plan(flags, *policy, freeze_schedule(flags, *policy).get());
  const at::Device device = *options.device;
  policy->module()->to(device);
  add_digests(plan, *policy->module());
  apply_freeze(plan, *policy->module());
  cast_parameters(plan, *policy->module(), resolve_precision(options.precision, device));

  PolicyTask task(policy, plan, dataset, options, device);
  const SignalScope signals;
  const char* unit = options.image_transforms.enable ? "views" : "frames";
  Progress progress({.label = "cache", .total = task.prefixes(), .quiet = options.quiet});
  const bool complete = task.fill_cache([&](std::int64_t done, std::int64_t /*total*/) {
    progress.update(done, unit);
    return stop_signal() == 0;
  });
  progress.finish();
  const CacheStatistics statistics = *task.cache_statistics();
  outcome.code = exit_code(complete);
  if (outcome.json) {
    std::cout << as_json(statistics, complete, options.prefix.store.folder).dump(2) << '\n';
    return;
  }
  std::cout << fmt::format("{} {} in the cache, {} of them computed now; {:.1f} MB in {}\n", statistics.entries, unit,
                           statistics.stored, static_cast<double>(statistics.disk_bytes) / 1e6,
                           options.prefix.store.folder.string());
}

}  // namespace

void add_cache_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = add_subcommand(
      app, outcome, "cache", "fills the prefix cache of a training run: give it the flags of that run",
      "  thaw cache --policy base --dataset data/ --freeze 'vision=0,language=0' --cache kv --cache-dir cache/");
  add_training_flags(*command, *flags);
  command->get_option("--output")->required(false);
  command->callback([flags, command, &outcome] { run_cache(*flags, *command, outcome); });
}

}  // namespace thaw::cli
