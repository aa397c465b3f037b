// thaw bench data: how many frames a second the loader hands over.
#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <numeric>
#include <thread>

#include "bench.h"
#include "bench_memory.h"
#include "bench_policy.h"
#include "flags.h"
#include "thaw/data/loader.h"

namespace thaw::cli {
namespace {

struct DataFlags {
  std::filesystem::path dataset;
  std::int64_t chunk_size = 50;
  std::int64_t batches = 20;
  LoaderOptions loader{.batch_size = 32};
  RoundFlags rounds;
};

/// What a training run reads of a dataset: every camera now, and a chunk of actions.
LeRobotDataset training_view(const DataFlags& flags) {
  LeRobotDataset dataset = LeRobotDataset::open(flags.dataset);
  std::vector<std::int64_t> chunk(static_cast<std::size_t>(flags.chunk_size));
  std::iota(chunk.begin(), chunk.end(), 0);
  DatasetOptions options;
  for (const Feature& feature : dataset.features()) {
    if (feature.type == FeatureType::action && flags.chunk_size > 0) options.deltas[feature.name] = chunk;
  }
  return dataset.with(options);
}

std::int64_t pictures_in(const Batch& batch, const LeRobotDataset& dataset) {
  std::int64_t pictures = 0;
  for (const Feature& feature : dataset.features()) {
    if (feature.type == FeatureType::visual && batch.has(feature.name)) pictures += batch.size();
  }
  return pictures;
}

/// Batches as fast as they come, behind those that were read ahead while nobody asked.
Json read_round(DataLoader& loader, const LeRobotDataset& dataset, const DataFlags& flags) {
  for (int ahead = 0; ahead < flags.loader.prefetch; ++ahead) static_cast<void>(loader.next());
  std::int64_t frames = 0;
  const Clock::time_point begin = Clock::now();
  for (std::int64_t i = 0; i < flags.batches; ++i) frames += pictures_in(loader.next(), dataset);
  const double seconds = seconds_between(begin, Clock::now());
  return Json{{"seconds", seconds}, {"frames", frames}, {"frames_per_s", static_cast<double>(frames) / seconds}};
}

void run_data(const DataFlags& flags, const Outcome& outcome) {
  flags.loader.validate();
  flags.rounds.apply();
  if (flags.batches < 1 || flags.chunk_size < 0) {
    throw UsageError(Problem{.where = "thaw bench data", .expected = "--batches from 1, --chunk-size from 0"});
  }
  PeakMemory memory;
  const LeRobotDataset dataset = training_view(flags);
  DataLoader loader(dataset.with(dataset.options()), flags.loader);
  memory.mark();
  const auto round = [&] {
    Json json = read_round(loader, dataset, flags);
    json.update(memory.report());
    // Until the workers rest again, so that they take nothing from whoever is measured next.
    const double each = json["seconds"].get<double>() / static_cast<double>(flags.batches);
    std::this_thread::sleep_for(std::chrono::duration<double>(1.5 * flags.loader.prefetch * each));
    return json;
  };
  const Json facts{{"ready", true},
                   {"batch_size", flags.loader.batch_size},
                   {"workers", flags.loader.workers},
                   {"batches", flags.batches}};
  print_rounds(run_rounds(flags.rounds, facts, round), flags.rounds, outcome.json);
}

}  // namespace

void add_bench_data_command(CLI::App& bench, Outcome& outcome) {
  const auto flags = std::make_shared<DataFlags>();
  CLI::App* command = add_subcommand(bench, outcome, "data", "frames a second of the loader, in random order",
                                     "  thaw bench data --dataset data/ --batch-size 32 --num-workers 2 --json");
  command->add_option("--dataset", flags->dataset, "a LeRobotDataset folder")->required();
  command->add_option("--batch-size", flags->loader.batch_size, "samples of one batch");
  command->add_option("--num-workers", flags->loader.workers, "loader threads");
  command->add_option("--batches", flags->batches, "timed batches of one round");
  command->add_option("--chunk-size", flags->chunk_size, "actions read with every frame");
  command->add_option("--seed", flags->loader.seed, "of the order");
  flags->rounds.add_to(*command);
  command->callback([flags, &outcome] { run_data(*flags, outcome); });
}

}  // namespace thaw::cli
