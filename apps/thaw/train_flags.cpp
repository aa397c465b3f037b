#include "train_flags.h"

#include "thaw/core/error.h"
#include "thaw/models/registry.h"
#include "thaw/tensor/device.h"

namespace thaw::cli {
namespace {

std::vector<RateRule> parse_rates(const std::string& text) {
  std::vector<RateRule> rules;
  for (const auto& [pattern, rate] : parse_pairs(text, "--rates")) {
    try {
      rules.push_back({pattern, std::stod(rate)});
    } catch (const std::exception&) {
      throw UsageError(
          Problem{.where = "--rates", .expected = "PATTERN=RATE", .found = "'" + pattern + "=" + rate + "'"});
    }
  }
  return rules;
}

}  // namespace

static void add_data_flags(CLI::App& command, TrainFlags& flags) {
  command.add_option("--policy", flags.policy, "base: a LeRobot checkpoint folder")->required();
  command.add_option("--tokenizer", flags.tokenizer, "folder with the tokenizer, when it is not beside the checkpoint");
  command.add_option("--dataset", flags.dataset, "a LeRobotDataset folder, v3.0 or v2.1")->required();
  command.add_option("--episodes", flags.episodes, "only these, as in 0,3,5-7");
  command.add_option("--rename-map", flags.rename_map, "dataset key=policy key, comma-separated");
  command.add_flag("--allow-missing-cameras", flags.options.allow_missing_cameras,
                   "train although the dataset lacks a camera of the policy");
}

static void add_image_flags(CLI::App& command, TrainFlags& flags) {
  ImageTransformsOptions& transforms = flags.options.image_transforms;
  command.add_flag(
      "--image-transforms", transforms.enable,
      "change the pictures trained on at random: brightness, contrast, saturation, hue, sharpness, affine");
  command.add_option("--image-transforms-max", transforms.max_num_transforms, "transforms of one picture, at most");
  command.add_flag("--image-transforms-random-order", transforms.random_order, "apply them as drawn, not as listed");
  command.add_option("--image-transforms-set", flags.image_transforms,
                     "ranges and weights, as in 'brightness=0.7:1.3,affine.degrees=-10:10,hue.weight=0'");
  command.add_option("--views", transforms.views,
                     "fixed views of every frame, taken in turn (what a cache can keep); 0: new ones at every visit");
}

static void add_loop_flags(CLI::App& command, TrainOptions& options) {
  command.add_option("--steps", options.steps, "optimizer steps");
  command.add_option("--batch-size", options.batch_size, "samples of one micro-batch");
  command.add_option("--accumulation", options.accumulation, "micro-batches of one step");
  command.add_option("--seed", options.seed, "of order, noise and time");
  command.add_option("--num-workers", options.workers, "loader threads");
  command.add_option("--grad-clip-norm", options.grad_clip_norm, "total gradient norm; 0: no clipping");
  command.add_flag("--checkpoint-activations", options.checkpoint_activations,
                   "keep less for backward and compute it again");
  command.add_flag("--ema", options.ema.enable, "keep a moving average of the trained tensors");
  command.add_option("--ema-decay", options.ema.decay, "fixed decay of the average");
  command.add_option("--max-skips", options.max_consecutive_skips, "non-finite steps in a row before training stops");
}

void add_prefix_flags(CLI::App& command, TrainFlags& flags) {
  PrefixOptions& prefix = flags.options.prefix;
  command.add_option("--draws", flags.options.draws, "noise draws of every sample in a step, which share its prefix");
  command.add_option(
      "--cache", flags.cache,
      "what the frozen prefix leaves is computed once a frame and kept: none, auto, vision, hidden or kv");
  command.add_option("--cache-dir", prefix.store.folder, "folder of the cache; without it, memory alone");
  command.add_option("--cache-memory", flags.cache_memory, "most that the cache holds in memory");
  command.add_option("--cache-disk", flags.cache_disk, "most that the cache holds in its folder");
  command.add_option("--cache-storage", flags.cache_storage, "exact, bf16 or int8");
  command.add_option("--check-cache", prefix.check,
                     "share of what the cache gives that is computed again and compared");
  command.add_option("--prefix-batch-size", prefix.batch_size, "samples in the frozen prefix at a time; 0: automatic");
}

static void add_optimizer_flags(CLI::App& command, TrainFlags& flags) {
  OptimizerOptions& optimizer = flags.options.optimizer;
  ScheduleOptions& schedule = flags.options.schedule;
  command.add_option("--lr", optimizer.learning_rate, "peak learning rate (default: the policy's)");
  command.add_option("--beta1", optimizer.beta1, "AdamW (default: the policy's)");
  command.add_option("--beta2", optimizer.beta2, "AdamW (default: the policy's)");
  command.add_option("--eps", optimizer.eps, "AdamW (default: the policy's)");
  command.add_option("--weight-decay", optimizer.weight_decay, "AdamW, decoupled (default: the policy's)");
  command.add_option("--layer-decay", optimizer.layer_decay, "factor on the rate from one block to the one before");
  command.add_option("--rates", flags.rates, "own peak rates, as in '*state_proj*=1e-5,*norm*=0'");
  command.add_option("--schedule", flags.schedule, "cosine, linear or constant");
  command.add_option("--warmup-steps", schedule.warmup_steps, "(default: the policy's)");
  command.add_option("--decay-steps", schedule.decay_steps, "(default: the policy's)");
  command.add_option("--decay-lr", schedule.decay_learning_rate, "rate at the end (default: the policy's)");
  command.add_flag("--no-auto-scale", flags.no_auto_scale, "keep warm-up and decay although the run is shorter");
}

static void add_run_flags(CLI::App& command, TrainFlags& flags) {
  TrainOptions& options = flags.options;
  command.add_option("--output", options.output, "run folder")->required();
  command.add_option("--resume", flags.resume, "go on with this run; its own flags hold where none is given");
  command.add_option("--save-every", options.save_every, "steps between checkpoints; 0: only at the end");
  command.add_option("--keep-last", options.keep_last, "checkpoints kept");
  command.add_option("--log-every", options.log_every, "steps between lines of metrics.jsonl");
  command.add_option("--eval-every", options.eval_every, "steps between evaluations; 0: before and after");
  command.add_option("--eval-split", options.eval_split, "share of the episodes held out");
  command.add_option("--eval-episodes", flags.eval_episodes, "held-out episodes, as in 3,7");
  command.add_option("--eval-samples", options.eval_samples, "held-out frames evaluated at most; 0: all");
  command.add_option("--precision", flags.precision, "auto, fp32, bf16 or fp16");
  command.add_option("--cuda-graph", flags.cuda_graph,
                     "record steps on a CUDA device and play them back: auto, on, off");
  command.add_option("--device", flags.device, "auto, cpu, cuda or cuda:N");
  command.add_flag("--no-tensorboard", flags.no_tensorboard, "write no TensorBoard file");
  command.add_flag("--quiet", options.quiet, "no progress line");
}

void add_training_flags(CLI::App& command, TrainFlags& flags) {
  add_data_flags(command, flags);
  add_image_flags(command, flags);
  flags.freeze.add_to(command);
  flags.lora.add_to(command);
  command
      .add_option("--freeze-schedule", flags.freeze_schedule,
                  "further rules from a step on, as in '500: language=2; 1000: language=4'")
      ->excludes("--lora");
  command
      .add_option("--rotate-blocks", flags.rotate_blocks,
                  "train some blocks of a stack at a time, drawn anew, as in 'language,blocks=2,every=50'")
      ->excludes("--freeze-schedule")
      ->excludes("--lora");
  add_loop_flags(command, flags.options);
  add_prefix_flags(command, flags);
  add_optimizer_flags(command, flags);
  add_run_flags(command, flags);
}

TrainOptions train_options(const TrainFlags& flags, const CLI::App& command, const Outcome& outcome) {
  TrainOptions options = flags.options;
  options.precision = parse_precision(flags.precision);
  options.cuda_graph = parse_cuda_graphs(flags.cuda_graph);
  options.device = parse_device(flags.device);
  options.schedule.kind = parse_schedule_kind(flags.schedule);
  options.schedule.auto_scale = !flags.no_auto_scale;
  options.optimizer.rates = parse_rates(flags.rates);
  options.eval_episodes = parse_numbers(flags.eval_episodes, "--eval-episodes");
  options.rename_map = parse_pairs(flags.rename_map, "--rename-map");
  for (const auto& [key, value] : parse_pairs(flags.image_transforms, "--image-transforms-set")) {
    set_image_transform(options.image_transforms, key, value, "--image-transforms-set");
  }
  options.tensorboard = !flags.no_tensorboard;
  options.resume = !flags.resume.empty();
  options.prefix.cache = parse_cache_cut(flags.cache);
  options.prefix.store.storage = parse_cache_storage(flags.cache_storage);
  options.prefix.store.memory_bytes = parse_byte_size(flags.cache_memory, "--cache-memory");
  options.prefix.store.disk_bytes = parse_byte_size(flags.cache_disk, "--cache-disk");
  options.quiet = options.quiet || outcome.json;
  options.config_text = flags_as_toml(command, {"policy", "tokenizer", "dataset", "output", "freeze-file", "cache-dir"},
                                      {"resume", "config-file", "json", "quiet"});
  options.validate();
  return options;
}

std::shared_ptr<const FreezeSchedule> freeze_schedule(const TrainFlags& flags, const Policy& policy) {
  const auto resolve = [&policy](const LayerFreezePolicy& rules) { return rules.resolve(policy); };
  if (!flags.freeze_schedule.empty()) {
    return std::make_shared<FreezeSchedule>(resolve, flags.freeze.policy(),
                                            FreezeSchedule::parse_phases(flags.freeze_schedule));
  }
  if (flags.rotate_blocks.empty()) return nullptr;
  RotatingBlocks rotating = FreezeSchedule::parse_rotating(flags.rotate_blocks);
  rotating.seed = flags.options.seed;
  return std::make_shared<FreezeSchedule>(resolve, flags.freeze.policy(), rotating);
}

FreezePlan freeze_plan(const TrainFlags& flags, const Policy& policy, const FreezeSchedule* schedule) {
  return schedule != nullptr ? schedule->whole() : flags.lora.freeze(flags.freeze.policy()).resolve(policy);
}

LeRobotDataset open_dataset(const TrainFlags& flags) {
  return LeRobotDataset::open(flags.dataset, {.episodes = parse_numbers(flags.episodes, "--episodes")});
}

std::shared_ptr<Policy> open_policy(const TrainFlags& flags, const LeRobotDataset& dataset) {
  return adapted(
      flags, load_policy(flags.policy, {.tokenizer_folder = flags.tokenizer,
                                        .output_features = features_of_type(dataset.features(), FeatureType::action)}));
}

std::shared_ptr<Policy> adapted(const TrainFlags& flags, std::shared_ptr<Policy> policy) {
  const std::vector<Adapter> adapters = flags.lora.adapters(policy->layout(), flags.freeze.policy());
  return adapters.empty() ? policy : policy->with_adapters(adapters, flags.options.seed);
}

}  // namespace thaw::cli
