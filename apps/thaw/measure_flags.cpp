#include "measure_flags.h"

#include "flags.h"
#include "thaw/core/error.h"
#include "thaw/models/registry.h"

namespace thaw::cli {
namespace {

LeRobotDataset open_calibration(const MeasureFlags& flags) {
  if (flags.dataset.empty()) {
    throw UsageError(Problem{.where = "--dataset",
                             .expected = "the dataset to measure on",
                             .found = "none",
                             .fix = "Measures come from a few of its frames."});
  }
  return LeRobotDataset::open(flags.dataset, {.episodes = parse_numbers(flags.episodes, "--episodes")});
}

}  // namespace

void MeasureFlags::add_to(CLI::App& command) {
  command.add_option("--dataset", dataset, "a LeRobotDataset folder: measures are taken on some of its frames");
  command.add_option("--tokenizer", tokenizer, "folder with the tokenizer, when it is not beside the checkpoint");
  command.add_option("--episodes", episodes, "frames of these alone, as in 0,3,5-7");
  command.add_option("--rename-map", rename_map, "dataset key=policy key, comma-separated");
  command.add_flag("--allow-missing-cameras", options.allow_missing_cameras,
                   "leave out cameras that the dataset lacks");
  command.add_option("--samples", options.samples, "calibration frames, drawn at random");
  command.add_option("--rows-per-sample", options.rows_per_sample,
                     "rows of each kind of token that CKA takes of a frame; 0: all");
  command.add_option("--cka-rows", options.cka.rows, "rows of one minibatch of CKA");
  command.add_option("--massive-ratio", options.cka.massive_ratio,
                     "how many times the median dimension is massive, reported, and left out of the trimmed CKA");
  command.add_option("--seed", options.seed, "of frames, rows, noise and time");
}

MeasureReport measure(const std::filesystem::path& folder, const MeasureFlags& flags, const MeasureOptions& options,
                      const std::filesystem::path& base) {
  const LeRobotDataset dataset = open_calibration(flags);
  const std::shared_ptr<Policy> policy =
      load_policy(folder, {.tokenizer_folder = flags.tokenizer,
                           .dtype = at::kFloat,
                           .output_features = features_of_type(dataset.features(), FeatureType::action)});
  MeasureOptions asked = options;
  asked.rename_map = parse_pairs(flags.rename_map, "--rename-map");
  MeasureReport report = measure_policy(*policy, dataset, asked);
  if (!base.empty()) add_divergence(report, policy->layout(), *policy->module(), base);
  return report;
}

MeasureReport measure_for_pruning(const std::filesystem::path& folder, const MeasureFlags& flags,
                                  const PruneOptions& options, const ModelLayout& layout) {
  MeasureOptions measures = flags.options;
  for (const BlockStack& stack : joined_stacks(layout, options.stack)) measures.stacks.push_back(stack.name);
  measures.gradients = options.needs_gradients();
  measures.similarity = !measures.gradients;
  return measure(folder, flags, measures);
}

}  // namespace thaw::cli
