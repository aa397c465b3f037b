#include "thaw/train/policy_task.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <any>

#include "checkpointed_stages_impl.h"
#include "held_out_impl.h"
#include "prefix_source_impl.h"
#include "step_inputs_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/data/image_transforms.h"
#include "thaw/data/ordered_loader.h"
#include "thaw/freeze/forecast.h"
#include "thaw/policy/run.h"
#include "thaw/train/precision.h"

namespace thaw {
namespace {

LeRobotDataset part_of(const Policy& policy, const LeRobotDataset& dataset, const std::vector<std::int64_t>& episodes,
                       const std::vector<std::string>& cameras) {
  return dataset.with(
      {.episodes = episodes, .deltas = policy_deltas(policy, dataset), .cameras = cameras, .decode_images = true});
}

constexpr int kBatchesAhead = 2;        // each holds its images
constexpr int kCachedBatchesAhead = 1;  // each holds its prefixes, which are read in a fraction of a step

/// How the stages that need a graph are run.
using StageRunner = std::function<void(std::span<const Stage>, std::size_t, std::size_t, PrefixState&)>;

StageRunner stage_runner(const TrainOptions& options, at::Device device) {
  if (!options.checkpoint_activations) return run_stages_once;
  return [precision = resolve_precision(options.precision, device)](std::span<const Stage> line, std::size_t from,
                                                                    std::size_t to, PrefixState& state) {
    run_checkpointed_stages(line, from, to, state, precision);
  };
}

std::int64_t frames_of(const LeRobotDataset& dataset, const std::vector<std::int64_t>& episodes) {
  std::int64_t frames = 0;
  for (const std::int64_t episode : episodes) {
    frames += dataset.episodes().at(static_cast<std::size_t>(episode)).length();
  }
  return frames;
}

/// Prefixes that a full cache holds: one of every held-out frame, one of every view of a frame trained on.
std::int64_t split_prefixes(const LeRobotDataset& dataset, const EpisodeSplit& split, const TrainOptions& options) {
  const std::int64_t views = std::max<std::int64_t>(options.image_transforms.views, 1);
  return frames_of(dataset, split.training) * views + frames_of(dataset, split.held_out);
}

std::optional<ImageTransforms> image_transforms(const TrainOptions& options, const LeRobotDataset& dataset) {
  if (!options.image_transforms.enable) return std::nullopt;
  return ImageTransforms(options.image_transforms, options.seed, augmented_cameras(dataset));
}

/// The options with the cut that `automatic` stands for: the cheapest step whose cache fits into the budget.
PrefixOptions with_chosen_cut(const Policy& policy, const FreezePlan& plan, const TrainOptions& options,
                              std::int64_t frames) {
  PrefixOptions prefix = options.prefix;
  if (prefix.cache != CacheCut::automatic) return prefix;
  const ForecastOptions question{.shape = {.batch_size = options.batch_size,
                                           .draws = options.draws,
                                           .accumulation = options.accumulation,
                                           .checkpoint_activations = options.checkpoint_activations},
                                 .storage = prefix.store.storage,
                                 .frames = frames};
  const std::int64_t budget = prefix.store.folder.empty() ? prefix.store.memory_bytes : prefix.store.disk_bytes;
  prefix.cache = choose_cut(policy.layout(), plan, question, static_cast<double>(budget)).kind;
  log_info(fmt::format("cache: {}", cache_cut_name(prefix.cache)));
  return prefix;
}

}  // namespace

at::Tensor policy_loss(const Policy& policy, std::size_t boundary, const Batch& batch, const Draw& draw,
                       Reduction reduction) {
  return policy_loss_from(policy, policy.begin(batch), 0, boundary, batch, draw, reduction);
}

at::Tensor policy_loss_from(const Policy& policy, PrefixState state, std::size_t from, std::size_t boundary,
                            const Batch& batch, const Draw& draw, Reduction reduction) {
  const std::size_t first_with_grad = std::max(from, boundary);
  policy.add_draw(state, batch, draw);
  run_frozen_stages(policy.line(), from, first_with_grad, state);
  run_stages_once(policy.line(), first_with_grad, policy.line().size(), state);
  return policy.loss(state, batch, draw, reduction);
}

struct PolicyTask::Impl {
  std::shared_ptr<Policy> policy;
  std::size_t boundary;
  std::int64_t draws;
  Precision precision;
  at::Device device;
  StageRunner runner;
  LoaderOptions loader_options;
  LeRobotDataset training;
  std::shared_ptr<PrefixSource> source;
  std::optional<HeldOut> held_out;
  std::vector<std::string> warnings;
  std::unique_ptr<OrderedLoader> loader;
  std::int64_t next_batch = 0;
  double earlier_wait = 0.0;  ///< of loaders that were replaced
  std::vector<std::int64_t> samples;

  /// Stages that run without grad and belong to no draw.
  [[nodiscard]] std::size_t shared_stages() const { return std::min(boundary, policy->first_draw_stage()); }

  [[nodiscard]] std::size_t first_with_grad() const { return std::max(shared_stages(), boundary); }

  /// A loader gives batches in order: another number than the next needs another loader.
  PreparedBatch batch(std::int64_t number) {
    if (!loader || number != next_batch) start_at(number);
    const bool epoch_begins = number % loader->batches_per_epoch() == 0;
    if (epoch_begins) source->release_weights_when_filled(frame_sets());
    next_batch = number + 1;
    return std::any_cast<PreparedBatch>(loader->next());
  }

  void start_at(std::int64_t number) {
    if (loader) earlier_wait += loader->wait_seconds();
    LoaderOptions from_here = loader_options;
    from_here.first_batch = number;
    loader.reset();
    loader = start_loader(training, from_here, [from = source](const LeRobotDataset& dataset, const Visit& visit) {
      return from->read_augmented(dataset, visit);
    });
  }

  using Read = std::function<Sample(const LeRobotDataset& dataset, const Visit& visit)>;

  [[nodiscard]] std::unique_ptr<OrderedLoader> start_loader(const LeRobotDataset& dataset, const LoaderOptions& options,
                                                            const Read& read) const {
    const auto data = std::make_shared<const LeRobotDataset>(dataset.with(dataset.options()));
    const ProcessorPipeline preprocess = policy->preprocessor();
    return std::make_unique<OrderedLoader>(
        data->size(), options, [data, read](const Visit& visit) { return read(*data, visit); },
        [from = source, preprocess](std::vector<Sample> read_samples) -> std::any {
          return from->gather(std::move(read_samples), preprocess);
        });
  }

  [[nodiscard]] std::vector<FrameSet> frame_sets() const {
    std::vector<FrameSet> all{{.dataset = &training, .augmented = true}};
    if (held_out) all.push_back({.dataset = &held_out->dataset(), .augmented = false});
    return all;
  }

  /// Computes what the cache lacks of `frames`, view after view. `progress` is told of each batch.
  bool fill(const FrameSet& frames, const std::function<bool(std::int64_t)>& progress) {
    LoaderOptions in_order = loader_options;
    in_order.shuffle = false;
    const auto filler =
        start_loader(*frames.dataset, in_order,
                     [from = source, augmented = frames.augmented](const LeRobotDataset& dataset, const Visit& visit) {
                       return from->read_missing({.dataset = &dataset, .augmented = augmented}, visit);
                     });
    for (std::int64_t left = source->views(frames) * filler->batches_per_epoch(); left > 0; --left) {
      PreparedBatch prepared = std::any_cast<PreparedBatch>(filler->next());
      source->compute_missing(prepared);
      if (!progress(prepared.batch.size())) return false;
    }
    return true;
  }
};

PolicyTask::PolicyTask(std::shared_ptr<Policy> policy, const FreezePlan& plan, const LeRobotDataset& dataset,
                       const TrainOptions& options, at::Device device, bool keep_statistics) {
  // A tokenizer that cannot be found must end a run before it begins, not in its first batch.
  static_cast<void>(policy->preprocessor().tokenizer());
  if (!options.rename_map.empty()) policy->preprocessor().set_rename_map(options.rename_map);
  const EpisodeSplit split = choose_episodes(dataset, options);
  const std::vector<std::string> cameras = policy_cameras(*policy, dataset, options.allow_missing_cameras);
  LeRobotDataset training = part_of(*policy, dataset, split.training, cameras);
  std::vector<std::string> warnings;
  if (!keep_statistics) warnings = fit_processors(*policy, training, options);
  const PrefixOptions prefix = with_chosen_cut(*policy, plan, options, split_prefixes(dataset, split, options));
  const bool caches = prefix.cache != CacheCut::none;
  const auto source = std::make_shared<PrefixSource>(policy, plan, prefix, resolve_precision(options.precision, device),
                                                     device, cameras, caches ? dataset.digest() : std::string(),
                                                     image_transforms(options, dataset));
  std::optional<HeldOut> held_out;
  if (!split.held_out.empty()) {
    held_out.emplace(policy, part_of(*policy, dataset, split.held_out, cameras), source, options);
  }
  const LoaderOptions loader_options{.batch_size = options.batch_size,
                                     .seed = options.seed,
                                     .workers = options.workers,
                                     .prefetch = caches ? kCachedBatchesAhead : kBatchesAhead};
  impl_ = std::make_unique<Impl>(Impl{.policy = std::move(policy),
                                      .boundary = plan.boundary,
                                      .draws = options.draws,
                                      .precision = resolve_precision(options.precision, device),
                                      .device = device,
                                      .runner = stage_runner(options, device),
                                      .loader_options = loader_options,
                                      .training = std::move(training),
                                      .source = source,
                                      .held_out = std::move(held_out),
                                      .warnings = std::move(warnings)});
}

PolicyTask::~PolicyTask() = default;

at::Tensor PolicyTask::loss(const MicroStep& micro_step) { return loss_of(prepare(micro_step)); }

StepInputs PolicyTask::prepare(const MicroStep& micro_step) {
  PreparedBatch prepared = impl_->batch(micro_step.micro_batch);
  impl_->samples = prepared.batch.indices;
  const Policy& policy = *impl_->policy;
  const std::size_t shared = impl_->shared_stages();
  PrefixState state = impl_->source->state_before(prepared, shared);
  const Draw draw = policy.draw(prepared.batch, micro_step.seed, DrawPurpose::training,
                                static_cast<std::uint64_t>(micro_step.micro_batch), impl_->draws);
  policy.add_draw(state, prepared.batch, draw);
  run_frozen_stages(policy.line(), shared, impl_->first_with_grad(), state);
  return inputs_of(state, prepared.batch, draw);
}

at::Tensor PolicyTask::loss_of(StepInputs inputs) {
  const Policy& policy = *impl_->policy;
  const Batch batch = batch_in(inputs, impl_->samples);
  const Draw draw = draw_in(inputs);
  PrefixState state = state_in(inputs);
  inputs.clear();  // what backward does not need is let go of as the stages pass
  impl_->runner(policy.line(), impl_->first_with_grad(), policy.line().size(), state);
  return policy.loss(state, batch, draw, Reduction::mean);
}

bool PolicyTask::fill_cache(const std::function<bool(std::int64_t, std::int64_t)>& progress) {
  if (impl_->source->cache() == nullptr) {
    throw UsageError(Problem{.where = "fill_cache", .expected = "options.prefix.cache", .found = "none"});
  }
  const AutocastScope autocast(impl_->precision, impl_->device);  // as in a training step
  const std::int64_t total = prefixes();
  std::int64_t done = 0;
  const auto go_on = [&](std::int64_t more) {
    done += more;
    return progress(done, total) || done == total;
  };
  const std::vector<FrameSet> sets = impl_->frame_sets();
  const bool filled =
      std::all_of(sets.begin(), sets.end(), [&](const FrameSet& set) { return impl_->fill(set, go_on); });
  impl_->source->cache()->flush();
  return filled;
}

std::optional<CacheStatistics> PolicyTask::cache_statistics() const {
  const PrefixCache* cache = impl_->source->cache();
  return cache == nullptr ? std::nullopt : std::optional(cache->statistics());
}

std::vector<std::int64_t> PolicyTask::last_samples() const { return impl_->samples; }

std::optional<EvaluationResult> PolicyTask::evaluate(std::int64_t /*step*/) {
  if (!impl_->held_out) return std::nullopt;
  return impl_->held_out->measure();
}

std::int64_t PolicyTask::micro_batches_per_epoch() const {
  const std::int64_t size = impl_->loader_options.batch_size;
  return (training_frames() + size - 1) / size;
}

double PolicyTask::data_wait_seconds() const {
  return impl_->earlier_wait + (impl_->loader ? impl_->loader->wait_seconds() : 0.0);
}

std::int64_t PolicyTask::frames() const {
  std::int64_t frames = 0;
  for (const FrameSet& set : impl_->frame_sets()) frames += set.dataset->size();
  return frames;
}

std::int64_t PolicyTask::prefixes() const {
  std::int64_t prefixes = 0;
  for (const FrameSet& set : impl_->frame_sets()) prefixes += impl_->source->views(set) * set.dataset->size();
  return prefixes;
}

std::int64_t PolicyTask::training_frames() const { return impl_->training.size(); }
const std::vector<std::string>& PolicyTask::warnings() const { return impl_->warnings; }

}  // namespace thaw
