#include "thaw/train/policy_task.h"

#include <ATen/ATen.h>

#include "held_out_impl.h"
#include "thaw/data/loader.h"

namespace thaw {
namespace {

LeRobotDataset part_of(const Policy& policy, const LeRobotDataset& dataset, const std::vector<std::int64_t>& episodes,
                       const std::vector<std::string>& cameras) {
  return dataset.with(
      {.episodes = episodes, .deltas = policy_deltas(policy, dataset), .cameras = cameras, .decode_images = true});
}

}  // namespace

at::Tensor policy_loss(const Policy& policy, std::size_t boundary, const Batch& batch, const Draw& draw,
                       Reduction reduction) {
  PrefixState state = policy.begin(batch);
  policy.add_draw(state, batch, draw);
  {
    const at::NoGradGuard no_grad;
    run_stages(policy.line(), 0, boundary, state);
  }
  run_stages(policy.line(), boundary, policy.line().size(), state);
  return policy.loss(state, batch, draw, reduction);
}

struct PolicyTask::Impl {
  std::shared_ptr<Policy> policy;
  std::size_t boundary;
  at::Device device;
  LoaderOptions loader_options;
  LeRobotDataset training;
  std::optional<HeldOut> held_out;
  std::vector<std::string> warnings;
  std::unique_ptr<DataLoader> loader;
  std::int64_t next_batch = 0;
  double earlier_wait = 0.0;  ///< of loaders that were replaced
  std::vector<std::int64_t> samples;

  /// A loader gives batches in order: another number than the next needs another loader.
  Batch batch(std::int64_t number) {
    if (!loader || number != next_batch) start_at(number);
    next_batch = number + 1;
    return to_device(loader->next(), device);
  }

  void start_at(std::int64_t number) {
    if (loader) earlier_wait += loader->wait_seconds();
    LoaderOptions from_here = loader_options;
    from_here.first_batch = number;
    const ProcessorPipeline preprocess = policy->preprocessor();
    loader.reset();
    loader = std::make_unique<DataLoader>(training.with(training.options()), from_here,
                                          [preprocess](Batch raw) { return preprocess(std::move(raw)); });
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
  std::optional<HeldOut> held_out;
  if (!split.held_out.empty()) {
    held_out.emplace(policy, part_of(*policy, dataset, split.held_out, cameras), options, device);
  }
  const LoaderOptions loader_options{
      .batch_size = options.batch_size, .seed = options.seed, .workers = options.workers};
  impl_ = std::make_unique<Impl>(Impl{.policy = std::move(policy),
                                      .boundary = plan.boundary,
                                      .device = device,
                                      .loader_options = loader_options,
                                      .training = std::move(training),
                                      .held_out = std::move(held_out),
                                      .warnings = std::move(warnings)});
}

PolicyTask::~PolicyTask() = default;

at::Tensor PolicyTask::loss(const MicroStep& micro_step) {
  const Batch batch = impl_->batch(micro_step.micro_batch);
  impl_->samples = batch.indices;
  const Policy& policy = *impl_->policy;
  const Draw draw =
      policy.draw(batch, micro_step.seed, DrawPurpose::training, static_cast<std::uint64_t>(micro_step.micro_batch));
  return policy_loss(policy, impl_->boundary, batch, draw);
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

std::int64_t PolicyTask::training_frames() const { return impl_->training.size(); }
const std::vector<std::string>& PolicyTask::warnings() const { return impl_->warnings; }

}  // namespace thaw
