// thaw init: a checkpoint with random weights, for tests, demos and benchmarks.
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "command.h"
#include "flags.h"
#include "thaw/core/files.h"
#include "thaw/core/json.h"
#include "thaw/data/dataset.h"
#include "thaw/data/statistics.h"
#include "thaw/models/registry.h"

namespace thaw::cli {
namespace {

struct InitFlags {
  std::string config = "smolvla_tiny";
  std::string dtype = "fp32";
  std::uint64_t seed = 0;
  std::filesystem::path dataset;
  std::filesystem::path tokenizer;
  std::filesystem::path output;
  std::int64_t chunk_size = 0;
};

InitialDtypes parse_dtypes(const std::string& text) {
  if (text == "fp32") return InitialDtypes::float32;
  if (text == "bf16") return InitialDtypes::published;
  throw UsageError(Problem{.where = "--dtype", .expected = "fp32 or bf16", .found = "'" + text + "'"});
}

/// Cameras, widths and statistics of the dataset that the policy is to be trained on.
void fit_to_dataset(InitOptions& options, const std::filesystem::path& root) {
  const LeRobotDataset dataset = LeRobotDataset::open(root);
  for (const Feature& feature : dataset.features()) {
    if (feature.type == FeatureType::visual) options.cameras.push_back(feature);
    if (feature.name == "observation.state") options.state_dim = feature.shape.at(0);
    if (feature.name == "action") options.action_dim = feature.shape.at(0);
  }
  options.statistics = compute_statistics(dataset).values;
}

std::int64_t parameters_of(const ModelLayout& layout) {
  std::int64_t count = 0;
  for (const ParameterInfo& parameter : layout.parameters) count += parameter.numel();
  return count;
}

void run_init(const InitFlags& flags, const Outcome& outcome) {
  InitOptions options{.config = flags.config,
                      .dtypes = parse_dtypes(flags.dtype),
                      .seed = flags.seed,
                      .tokenizer_folder = flags.tokenizer};
  if (flags.chunk_size > 0) options.chunk_size = flags.chunk_size;
  if (!flags.dataset.empty()) fit_to_dataset(options, flags.dataset);
  StagedDirectory folder(flags.output);
  const std::shared_ptr<Policy> policy = init_policy(options);
  policy->save_pretrained(folder.path());
  if (!flags.tokenizer.empty()) copy_tokenizer_files(*load_tokenizer(flags.tokenizer), folder.path());
  folder.commit();
  const std::int64_t parameters = parameters_of(policy->layout());
  if (outcome.json) {
    std::cout << Json{{"output", flags.output.string()}, {"type", policy->type()}, {"parameters", parameters}}.dump(2)
              << '\n';
  } else {
    std::cout << fmt::format("{}: {} with {} random parameters\n", flags.output.string(), policy->type(),
                             grouped(parameters));
  }
}

}  // namespace

void add_init_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<InitFlags>();
  CLI::App* command =
      add_subcommand(app, outcome, "init", "writes a LeRobot checkpoint with random weights",
                     "  thaw init --config smolvla_tiny --dataset data/ --tokenizer tokenizer/ --output base\n"
                     "  thaw init --config smolvla --dtype bf16 --output big\n"
                     "  thaw init --config pi05_tiny --tokenizer tokenizer/ --output small");
  command->add_option("--config", flags->config, "a named configuration, a config.json, or a folder that holds one");
  command->add_option("--dtype", flags->dtype, "fp32, or bf16 (float32 where the published file has it)");
  command->add_option("--seed", flags->seed, "of the weights");
  command->add_option("--dataset", flags->dataset, "take cameras, widths and normalisation from this LeRobot dataset");
  command->add_option("--chunk-size", flags->chunk_size, "actions of one chunk; 0: as configured");
  command->add_option("--tokenizer", flags->tokenizer, "folder with the tokenizer; its files are copied");
  command->add_option("--output", flags->output, "folder to write; must not exist")->required();
  command->callback([flags, &outcome] { run_init(*flags, outcome); });
}

}  // namespace thaw::cli
