// thaw bench step | sample: the trainer's real step by part, and sampling.
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <memory>

#include "bench.h"
#include "bench_gemm.h"
#include "bench_memory.h"
#include "bench_policy.h"
#include "bench_synthetic.h"
#include "thaw/data/loader.h"
#include "thaw/models/registry.h"
#include "thaw/nn/packed_weights.h"
#include "thaw/policy/run.h"
#include "thaw/tensor/safetensors.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/trainer.h"
#include "train_flags.h"

namespace thaw::cli {
namespace {

struct StepFlags {
  TrainFlags train;
  bool synthetic = false;
  std::filesystem::path write_inputs;
  RoundFlags rounds;
};

struct SamplingFlags {
  std::string policy;
  std::filesystem::path tokenizer;
  std::filesystem::path inputs;
  std::uint64_t seed = 1000;
  RoundFlags rounds;
};

/// The batch that the task's first step trains on.
Batch first_batch(const Policy& policy, const LeRobotDataset& dataset, const TrainOptions& options) {
  const LeRobotDataset reads =
      dataset.with({.episodes = dataset.options().episodes,
                    .deltas = policy_deltas(policy, dataset),
                    .cameras = policy_cameras(policy, dataset, options.allow_missing_cameras)});
  DataLoader loader(reads.with(reads.options()),
                    {.batch_size = options.batch_size, .seed = options.seed, .workers = 0});
  return policy.preprocessor()(loader.next());
}

/// A batch with the draw of the first step, and noise for sampling: what another trainer needs to do the same.
void write_inputs(const std::filesystem::path& file, const Policy& policy, const Batch& batch,
                  const TrainOptions& options) {
  const Draw draw = policy.draw(batch, options.seed, DrawPurpose::training, 0, 1);
  const Draw sampling = policy.draw(batch, options.seed, DrawPurpose::evaluation, 0, 1);
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : batch.tensors) tensors.push_back({name, tensor});
  tensors.push_back({"noise", draw.noise});
  tensors.push_back({"time", draw.time});
  tensors.push_back({"sample_noise", sampling.noise.narrow(0, 0, 1)});
  write_safetensors(file, tensors);
}

/// A trainer at work, step by step.
class StepBench {
 public:
  StepBench(const StepFlags& flags, TrainOptions options) : flags_(flags), options_(std::move(options)) {
    load();
    trainer_ = std::make_unique<Trainer>(policy_, plan_, options_);
    flags_.synthetic ? make_synthetic_task() : make_task();
    timed_ = std::make_unique<TimedTask>(*task_, *policy_, plan_.boundary);
    memory_.mark();
  }

  [[nodiscard]] Json facts() const {
    const auto elements = [this](ParameterClass which) { return plan_.elements(which); };
    return Json{{"ready", true},
                {"policy", policy_->type()},
                {"batch_size", options_.batch_size},
                {"draws", options_.draws},
                {"cache", cache_cut_name(options_.prefix.cache)},
                {"precision", precision_name(trainer_->precision())},
                {"parameters", elements(ParameterClass::trainable) + elements(ParameterClass::frozen) +
                                   elements(ParameterClass::dead)},
                {"trainable_parameters", elements(ParameterClass::trainable)},
                {"boundary", plan_.line[plan_.boundary].name},
                {"forward_gflop_per_sample", plan_.forward_flops() * 1e-9},
                {"backward_gflop_per_sample", plan_.backward_flops() * 1e-9},
                {"fill_seconds", fill_seconds_}};
  }

  [[nodiscard]] Json round() {
    timed_->reset();
    const Clock::time_point begin = Clock::now();
    const StepReport report = trainer_->step(*timed_);
    const double loss = report.loss();  // waits for the device
    const double total = seconds_between(begin, Clock::now());
    last_ = timed_->parts(total);
    Json json{{"total_ms", 1e3 * total},
              {"data_ms", 1e3 * last_.data},
              {"prefix_ms", 1e3 * last_.prefix},
              {"suffix_forward_ms", 1e3 * last_.suffix_forward},
              {"backward_ms", 1e3 * last_.backward},
              {"update_ms", 1e3 * last_.update},
              {"samples_per_s", static_cast<double>(options_.batch_size) / total},
              {"data_wait_share", last_.data / total},
              {"loss", loss},
              {"grad_norm", report.grad_norm()}};
    json.update(memory_.report());
    return json;
  }

  /// FLOP/s of the last step, beside what the machine reaches on the same products right now: of the blocks of a stack
  /// ("vision") or of the "step" as a whole. Nothing of a stack that did not run.
  [[nodiscard]] Json gemm(const std::string& group) {
    if (options_.draws > 1) throw UsageError(Problem{.where = "gemm", .expected = "--draws 1"});
    Json share = Json::object();
    memory_.leave_out([&] { share = gemm_share(group); });
    return share;
  }

  /// "gemm GROUP" for each.
  [[nodiscard]] std::map<std::string, std::function<Json()>> commands() {
    std::map<std::string, std::function<Json()>> commands{{"memory", [this] { return memory_.report(); }},
                                                          {"mark", [this] { return mark(); }},
                                                          {"gemm step", [this] { return gemm("step"); }}};
    for (const BlockStack& stack : policy_->layout().stacks) {
      commands["gemm " + stack.name] = [this, name = stack.name] { return gemm(name); };
    }
    return commands;
  }

 private:
  [[nodiscard]] Json mark() {
    memory_.mark();
    return memory_.report();
  }

  [[nodiscard]] Json gemm_share(const std::string& group) const {
    const std::vector<StageTime> times = policy_->clock().times();
    const ModelLayout& layout = policy_->layout();
    if (group == "step") {
      return share_of_step(layout, plan_, times, options_.batch_size, last_.total - last_.data).to_json();
    }
    const std::optional<GemmShare> share = share_of_stack(layout, times, group, options_.batch_size);
    return share ? share->to_json() : Json::object();
  }

  void load() {
    std::shared_ptr<Policy> policy;
    if (flags_.synthetic) {
      policy = adapted(flags_.train, load_policy(flags_.train.policy, {.tokenizer_folder = flags_.train.tokenizer}));
    } else {
      dataset_ = std::make_unique<LeRobotDataset>(open_dataset(flags_.train));
      policy = open_policy(flags_.train, *dataset_);
    }
    policy_ = std::make_shared<TimedPolicy>(policy);
    plan_ = freeze_plan(flags_.train, *policy_, nullptr);
  }

  void make_task() {
    auto task = std::make_unique<PolicyTask>(policy_, trainer_->plan(), *dataset_, options_, trainer_->device());
    if (!flags_.write_inputs.empty()) {
      write_inputs(flags_.write_inputs, *policy_, first_batch(*policy_, *dataset_, options_), options_);
    }
    if (options_.prefix.cache != CacheCut::none) fill(*task);
    task_ = std::move(task);
  }

  /// So that no step computes what the ones behind it find.
  void fill(PolicyTask& task) {
    const Clock::time_point begin = Clock::now();
    static_cast<void>(task.fill_cache([](std::int64_t /*done*/, std::int64_t /*total*/) { return true; }));
    fill_seconds_ = seconds_between(begin, Clock::now());
  }

  void make_synthetic_task() {
    const Batch batch = synthetic_batch(*policy_, options_.batch_size, options_.seed);
    task_ = std::make_unique<SyntheticTask>(policy_, plan_.boundary, options_.draws, batch);
    if (!flags_.write_inputs.empty()) write_inputs(flags_.write_inputs, *policy_, batch, options_);
  }

  PeakMemory memory_;  // first: its baseline comes before loading
  StepFlags flags_;
  TrainOptions options_;
  std::unique_ptr<LeRobotDataset> dataset_;
  std::shared_ptr<TimedPolicy> policy_;
  FreezePlan plan_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<TrainTask> task_;
  std::unique_ptr<TimedTask> timed_;
  StepParts last_;
  double fill_seconds_ = 0.0;
};

void run_step(const StepFlags& flags, const CLI::App& command, const Outcome& outcome) {
  if (flags.synthetic != flags.train.dataset.empty()) {
    throw UsageError(Problem{.where = "thaw bench step", .expected = "either --dataset DIR or --synthetic"});
  }
  TrainOptions options = train_options(flags.train, command, outcome);
  options.quiet = true;
  if (flags.synthetic && options.prefix.cache != CacheCut::none) {
    throw UsageError(Problem{.where = "--cache", .expected = "--dataset DIR, whose frames it would keep"});
  }
  flags.rounds.apply();
  StepBench bench(flags, std::move(options));
  const Json document = run_rounds(
      flags.rounds, bench.facts(), [&bench] { return bench.round(); }, bench.commands());
  print_rounds(document, flags.rounds, outcome.json);
}

/// One sample of `inputs`, as write_inputs wrote it, and the noise to begin with.
std::pair<Batch, at::Tensor> sampling_inputs(const std::filesystem::path& file) {
  Batch batch{.tasks = {""}, .indices = {0}};
  const SafetensorsFile inputs(file);
  for (const SafetensorsEntry& entry : inputs.entries()) {
    if (entry.name.starts_with("observation")) batch.tensors[entry.name] = inputs.read(entry.name).narrow(0, 0, 1);
  }
  return {std::move(batch), inputs.read("sample_noise")};
}

/// The first action of a chunk (1, T, D).
std::vector<float> first_action(const at::Tensor& chunk) {
  const at::Tensor action = chunk[0][0].to(at::kFloat).contiguous();
  return {action.data_ptr<float>(), action.data_ptr<float>() + action.numel()};
}

void run_sample(const SamplingFlags& flags, const Outcome& outcome) {
  flags.rounds.apply();
  PeakMemory memory;
  const std::shared_ptr<Policy> policy =
      load_policy(flags.policy, {.tokenizer_folder = flags.tokenizer, .dtype = at::kFloat});
  Batch batch;
  at::Tensor noise;
  if (flags.inputs.empty()) {
    batch = synthetic_batch(*policy, 1, flags.seed);
    noise = policy->draw(batch, flags.seed, DrawPurpose::evaluation, 0, 1).noise;
  } else {
    std::tie(batch, noise) = sampling_inputs(flags.inputs);
  }
  memory.mark();
  const nn::PackedWeights packed;  // as a robot's loop holds it, which samples chunk after chunk
  const auto round = [&] {
    // Policy::sample() in its two parts.
    const Clock::time_point begin = Clock::now();
    PrefixState state = policy->begin(batch);
    run_frozen_stages(policy->line(), 0, policy->first_draw_stage(), state);
    const Clock::time_point between = Clock::now();
    const at::Tensor chunk = policy->sample_from(std::move(state), noise);
    const Clock::time_point end = Clock::now();
    Json json{{"total_ms", 1e3 * seconds_between(begin, end)},
              {"prefix_ms", 1e3 * seconds_between(begin, between)},
              {"denoising_ms", 1e3 * seconds_between(between, end)},
              {"chunk_first", first_action(chunk)}};
    json.update(memory.report());
    return json;
  };
  const Json facts{{"ready", true}, {"policy", policy->type()}, {"batch_size", 1}};
  print_rounds(run_rounds(flags.rounds, facts, round), flags.rounds, outcome.json);
}

}  // namespace

void add_bench_step_command(CLI::App& bench, Outcome& outcome) {
  const auto flags = std::make_shared<StepFlags>();
  CLI::App* command = add_subcommand(
      bench, outcome, "step", "the trainer's real step: milliseconds by part, samples/s, peak memory",
      "  thaw bench step --policy base --synthetic --freeze 'vision=0,language=0,expert=all'\n"
      "  thaw bench step --policy base --dataset data/ --cache kv --batch-size 8 --rounds 10 --threads 2 --json");
  TrainFlags& train = flags->train;
  train.precision = "fp32";
  train.options.batch_size = 4;
  command->add_option("--policy", train.policy, "a checkpoint folder")->required();
  command->add_option("--tokenizer", train.tokenizer, "folder with the tokenizer, when it is not beside it");
  command->add_option("--dataset", train.dataset, "a LeRobotDataset folder");
  command->add_option("--episodes", train.episodes, "only these, as in 0,3,5-7");
  command->add_flag("--synthetic", flags->synthetic, "one fixed random batch instead of a dataset");
  train.freeze.add_to(*command);
  train.lora.add_to(*command);
  command->add_option("--batch-size", train.options.batch_size, "samples of one step");
  command->add_option("--num-workers", train.options.workers, "loader threads");
  command->add_option("--seed", train.options.seed, "of order, noise and time");
  command->add_option("--precision", train.precision, "auto, fp32, bf16 or fp16");
  command->add_option("--cuda-graph", train.cuda_graph, "record steps on a CUDA device: auto, on or off");
  command->add_option("--device", train.device, "auto, cpu, cuda or cuda:N");
  command->add_flag("--allow-missing-cameras", train.options.allow_missing_cameras,
                    "train although the dataset lacks a camera of the policy");
  add_prefix_flags(*command, train);
  command->add_option("--write-inputs", flags->write_inputs,
                      "also write the first step's batch, noise and time to this safetensors file");
  flags->rounds.add_to(*command);
  command->callback([flags, command, &outcome] { run_step(*flags, *command, outcome); });
}

void add_bench_sample_command(CLI::App& bench, Outcome& outcome) {
  const auto flags = std::make_shared<SamplingFlags>();
  CLI::App* command = add_subcommand(bench, outcome, "sample", "one sampled action chunk",
                                     "  thaw bench sample --policy base --rounds 10");
  command->add_option("--policy", flags->policy, "a checkpoint folder")->required();
  command->add_option("--tokenizer", flags->tokenizer, "folder with the tokenizer, when it is not beside it");
  command->add_option("--inputs", flags->inputs, "what thaw bench step --write-inputs wrote; else a random sample");
  command->add_option("--seed", flags->seed, "of the random sample and its noise");
  flags->rounds.add_to(*command);
  command->callback([flags, &outcome] { run_sample(*flags, outcome); });
}

}  // namespace thaw::cli
