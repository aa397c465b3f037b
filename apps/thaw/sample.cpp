// thaw sample: the action chunk a policy predicts for a dataset frame, beside the recorded one.
#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "command.h"
#include "flags.h"
#include "thaw/core/json.h"
#include "thaw/models/registry.h"
#include "thaw/train/head.h"
#include "thaw/train/policy_task.h"

namespace thaw::cli {
namespace {

struct SampleFlags {
  std::string policy;
  std::filesystem::path head;
  std::filesystem::path tokenizer;
  std::filesystem::path dataset;
  std::int64_t index = 0;
  std::int64_t episode = -1;
  std::int64_t frame = 0;
  std::uint64_t seed = 1000;
  bool allow_missing_cameras = false;
};

struct Chunk {
  Sample sample;
  at::Tensor predicted;  // (T, D) robot units
  at::Tensor recorded;   // (T, D) robot units
  at::Tensor padded;     // (T) bool: past the episode's end
  at::Tensor noise;      // (T, A): what sampling began with
};

std::int64_t frame_number(const SampleFlags& flags, const LeRobotDataset& dataset) {
  const auto in_range = [](const char* flag, std::int64_t value, std::int64_t size) {
    if (value >= 0 && value < size) return;
    throw UsageError(
        Problem{.where = flag, .expected = fmt::format("0 to {}", size - 1), .found = std::to_string(value)});
  };
  if (flags.episode < 0) {
    in_range("--index", flags.index, dataset.total_frames());
    return flags.index;
  }
  in_range("--episode", flags.episode, static_cast<std::int64_t>(dataset.episodes().size()));
  const Episode& episode = dataset.episodes()[static_cast<std::size_t>(flags.episode)];
  in_range("--frame", flags.frame, episode.length());
  return episode.from + flags.frame;
}

std::shared_ptr<Policy> load(const SampleFlags& flags) {
  const std::string base = base_of_run(flags.head, flags.policy);
  auto policy = load_policy(base, {.tokenizer_folder = flags.tokenizer});
  if (!flags.head.empty()) load_head(*policy, head_of_run(flags.head));
  return policy;
}

Chunk predict(const SampleFlags& flags) {
  const std::shared_ptr<Policy> policy = load(flags);
  const LeRobotDataset whole = LeRobotDataset::open(flags.dataset);
  const LeRobotDataset dataset = whole.with({.deltas = policy_deltas(*policy, whole),
                                             .cameras = policy_cameras(*policy, whole, flags.allow_missing_cameras)});
  Chunk chunk{.sample = dataset.sample(frame_number(flags, whole))};
  chunk.recorded = chunk.sample.tensors.at("action");
  chunk.padded = chunk.sample.tensors.at("action_is_pad");

  const Batch batch = policy->preprocessor()(collate(std::span(&chunk.sample, 1)));
  const Draw draw = policy->draw(batch, flags.seed, DrawPurpose::evaluation, 0);
  chunk.noise = draw.noise.squeeze(0);
  Batch actions{
      .tensors = {{"action", policy->sample(batch, draw.noise)}}, .tasks = batch.tasks, .indices = batch.indices};
  chunk.predicted = policy->postprocessor()(std::move(actions)).at("action").squeeze(0);
  return chunk;
}

std::vector<double> row(const at::Tensor& chunk, std::int64_t step) {
  const at::Tensor values = chunk[step].to(at::kDouble).contiguous();
  return {values.data_ptr<double>(), values.data_ptr<double>() + values.numel()};
}

/// Mean over the steps inside the episode.
double mean_squared_error(const Chunk& chunk) {
  const at::Tensor valid = chunk.padded.logical_not();
  const at::Tensor difference = (chunk.predicted - chunk.recorded).to(at::kDouble);
  return difference.index({valid}).square().mean().item<double>();
}

void print_table(const Chunk& chunk) {
  std::cout << fmt::format("frame {} of episode {}: \"{}\"\n", chunk.sample.index, chunk.sample.episode,
                           chunk.sample.task);
  std::cout << fmt::format("{:>4}  {:<44}  {}\n", "step", "predicted", "recorded");
  const auto text = [](const std::vector<double>& values) {
    std::string line;
    for (const double value : values) line += fmt::format("{:>9.4f}", value);
    return line;
  };
  for (std::int64_t step = 0; step < chunk.recorded.size(0); ++step) {
    const bool padded = chunk.padded[step].item<bool>();
    std::cout << fmt::format("{:>4}  {:<44}  {}{}\n", step, text(row(chunk.predicted, step)),
                             text(row(chunk.recorded, step)), padded ? "  (past the end)" : "");
  }
  std::cout << fmt::format("mean squared error inside the episode: {:.6g}\n", mean_squared_error(chunk));
}

void print_json(const Chunk& chunk) {
  Json json{{"index", chunk.sample.index}, {"episode", chunk.sample.episode}, {"task", chunk.sample.task}};
  for (std::int64_t step = 0; step < chunk.recorded.size(0); ++step) {
    json["predicted"].push_back(row(chunk.predicted, step));
    json["recorded"].push_back(row(chunk.recorded, step));
    json["is_pad"].push_back(chunk.padded[step].item<bool>());
  }
  for (std::int64_t step = 0; step < chunk.noise.size(0); ++step) json["noise"].push_back(row(chunk.noise, step));
  json["mean_squared_error"] = mean_squared_error(chunk);
  std::cout << json.dump(2) << '\n';
}

}  // namespace

void add_sample_command(CLI::App& app, Outcome& outcome) {
  const auto flags = std::make_shared<SampleFlags>();
  CLI::App* command = add_subcommand(
      app, outcome, "sample", "predicts the action chunk of a dataset frame and shows it beside the recorded one",
      "  thaw sample --head runs/drawer --dataset data/ --episode 3 --frame 10\n"
      "  thaw sample --policy merged --dataset data/ --index 100 --json");
  command->add_option("--policy", flags->policy,
                      "checkpoint folder; with --head, its base (default: where the run found it)");
  command->add_option("--head", flags->head, "run folder or head.safetensors to put onto the base");
  command->add_option("--tokenizer", flags->tokenizer,
                      "folder with the tokenizer, when it is not beside the checkpoint");
  command->add_option("--dataset", flags->dataset, "a LeRobotDataset folder")->required();
  command->add_option("--index", flags->index, "frame, counted over the whole dataset");
  command->add_option("--episode", flags->episode, "episode of --frame; -1: use --index");
  command->add_option("--frame", flags->frame, "frame inside --episode");
  command->add_option("--seed", flags->seed, "of the initial noise");
  command->add_flag("--allow-missing-cameras", flags->allow_missing_cameras,
                    "leave out cameras that the dataset lacks");
  command->callback([flags, &outcome] {
    const Chunk chunk = predict(*flags);
    outcome.json ? print_json(chunk) : print_table(chunk);
  });
}

}  // namespace thaw::cli
