#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <utility>

#include "sweep_base_impl.h"
#include "sweep_setting_impl.h"
#include "sweep_training_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/log.h"
#include "thaw/core/sha256.h"
#include "thaw/freeze/cost_model.h"
#include "thaw/freeze/forecast.h"
#include "thaw/freeze/memory_plan.h"
#include "thaw/freeze/prefix_cut.h"
#include "thaw/study/sweep_subject.h"
#include "thaw/train/policy_task.h"
#include "thaw/train/precision.h"
#include "thaw/train/shared_caches.h"
#include "thaw/train/signals.h"

namespace thaw {
namespace {

void require_held_out(const LeRobotDataset& dataset, const TrainOptions& options) {
  if (!choose_episodes(dataset, options).held_out.empty()) return;
  throw UsageError(Problem{.where = "sweep",
                           .expected = "held-out episodes to compare the points on",
                           .found = "none",
                           .fix = "Give --eval-split 0.2 or --eval-episodes."});
}

StepShape shape_of(const TrainOptions& options) {
  return {.batch_size = options.batch_size,
          .draws = options.draws,
          .accumulation = options.accumulation,
          .checkpoint_activations = options.checkpoint_activations};
}

/// The cut of a cache of `kind` at which nothing trains with `plan`; none where it allows none.
PrefixCut cut_for(const ModelLayout& layout, const FreezePlan& plan, const TrainOptions& options, std::int64_t frames) {
  const std::vector<PrefixCut> cuts = deepest_cuts(layout, plan);
  const CacheCut kind = options.prefix.cache;
  if (kind != CacheCut::automatic) {
    const auto found =
        std::find_if(cuts.begin(), cuts.end(), [kind](const PrefixCut& cut) { return cut.kind == kind; });
    return found == cuts.end() ? PrefixCut{} : *found;
  }
  const ForecastOptions question{.shape = shape_of(options), .storage = options.prefix.store.storage, .frames = frames};
  const CacheOptions& store = options.prefix.store;
  const std::int64_t budget = store.folder.empty() ? store.memory_bytes : store.disk_bytes;
  return choose_cut(layout, plan, question, static_cast<double>(budget));
}

class PolicySubject final : public SweepSubject {
 public:
  PolicySubject(std::shared_ptr<Policy> policy, const LeRobotDataset& dataset, TrainOptions options)
      : policy_(std::move(policy)),
        dataset_(dataset.with(dataset.options())),
        options_(with_device(std::move(options))),
        base_(on_device(policy_->module(), options_), policy_) {
    require_held_out(dataset_, options_);
    options_.prefix.shared = std::make_shared<SharedCaches>();
  }

  [[nodiscard]] std::vector<SweepFreeze> freezes(const SweepGrid& grid) override {
    return sweep_freezes(grid, layout(), [this](const LayerFreezePolicy& rules) { return rules.resolve(*policy_); });
  }
  [[nodiscard]] double learning_rate() const override {
    return options_.optimizer.learning_rate.value_or(policy_->training_preset().learning_rate);
  }
  [[nodiscard]] std::int64_t steps() const override { return options_.steps; }

  [[nodiscard]] Json setting() const override {
    return {{"kind", "policy"},
            {"type", policy_->type()},
            {"config", sha256_hex(policy_->config_json().dump())},
            {"base", base_.digest()},
            {"dataset", dataset_.digest()},
            {"episodes", dataset_.selected_episodes()},
            {"options", options_to_json(options_)}};
  }

  /// For short points, the deepest boundary that all freezes share which allow a cut at all decides for all of them.
  void prepare(std::span<const SweepFreeze> freezes) override {
    const FreezePlan* shallowest = nullptr;
    for (const SweepFreeze& freeze : freezes) {
      if (cut_of(freeze.plan).kind == CacheCut::none) continue;
      if (shallowest == nullptr || freeze.plan.boundary < shallowest->boundary) shallowest = &freeze.plan;
    }
    shared_cut_ = shallowest == nullptr ? PrefixCut{} : cut_of(*shallowest);
  }

  std::optional<SweepResult> train(const SweepPoint& point, const SweepFreeze& freeze,
                                   const std::filesystem::path& head_folder, const SweepWatcher& watcher) override {
    TrainOptions options = options_of_point(options_, point);
    const PrefixCut cut = cut_of_point(freeze.plan, options);
    hold_cache_at(cut);
    options.prefix.shared = options_.prefix.shared;
    options.prefix.cache = cut.kind;
    options.prefix.deepest_stage = cut.stage;
    SweepResult result = planned(point, freeze, cut, options);
    SweepBase::Loan loan(base_, freeze.plan);
    bool finished = false;
    {
      const FreezePlan plan = base_.with_digests(freeze.plan);
      Trainer trainer(policy_, plan, options);
      const auto task = [&](const Trainer& with) { return make_task(with, options); };
      finished = train_point(trainer, task, head_folder, watcher, result);
    }
    loan.give_back();
    return finished ? std::optional(std::move(result)) : std::nullopt;
  }

 private:
  [[nodiscard]] const ModelLayout& layout() const { return policy_->layout(); }

  [[nodiscard]] PrefixCut cut_of(const FreezePlan& plan) const {
    return cut_for(layout(), plan, options_,
                   dataset_.size() * std::max<std::int64_t>(options_.image_transforms.views, 1));
  }

  static std::int64_t visits_of(const TrainOptions& options) {
    return options.steps * options.accumulation * options.batch_size;
  }

  /// A point that sees every frame several times is cheapest with its own deepest cut, though its cache has to be
  /// filled; one that does not, with the cut that all points share.
  [[nodiscard]] PrefixCut cut_of_point(const FreezePlan& plan, const TrainOptions& options) const {
    constexpr std::int64_t kPasses = 2;
    const std::int64_t views = std::max<std::int64_t>(options.image_transforms.views, 1);
    if (visits_of(options) >= kPasses * views * dataset_.size()) return cut_of(plan);
    return plan.boundary < shared_cut_.stage ? PrefixCut{} : shared_cut_;
  }

  /// Of caches in memory only the present one is held.
  void hold_cache_at(const PrefixCut& cut) {
    if (cut.kind == CacheCut::none || std::exchange(held_stage_, cut.stage) == cut.stage) return;
    options_.prefix.shared = std::make_shared<SharedCaches>();
  }

  [[nodiscard]] std::unique_ptr<TrainTask> make_task(const Trainer& trainer, const TrainOptions& options) {
    auto task = std::make_unique<PolicyTask>(policy_, trainer.plan(), dataset_, options, trainer.device());
    if (!std::exchange(warned_, true)) {
      for (const std::string& warning : task->warnings()) log_warning(warning);
    }
    // Filled beforehand, all points take equally long; but not for a few steps on a large dataset.
    constexpr std::int64_t kWorth = 2;
    if (options.prefix.cache != CacheCut::none && kWorth * visits_of(options) >= task->prefixes()) {
      // Nothing to do but for the first of the points that share the cache.
      static_cast<void>(task->fill_cache([](std::int64_t, std::int64_t) { return stop_signal() == 0; }));
    }
    return task;
  }

  [[nodiscard]] SweepResult planned(const SweepPoint& point, const SweepFreeze& freeze, const PrefixCut& cut,
                                    const TrainOptions& options) const {
    SweepResult result{.point = point,
                       .trainable_parameters = freeze.plan.elements(ParameterClass::trainable),
                       .cut = std::string(cache_cut_name(cut.kind))};
    if (cut.kind != CacheCut::none) result.cut += " behind " + layout().line[cut.stage - 1].name;
    result.planned_step_flops = step_cost(layout(), freeze.plan, cut, shape_of(options)).flops();
    if (layout().keys.empty()) return result;
    const MemoryOptions memory{.compute = compute_dtype(options.precision), .ema = options.ema.enable};
    const MemoryPlan plan = plan_memory(layout(), freeze.plan, cut, shape_of(options), memory);
    result.planned_peak_bytes = static_cast<std::int64_t>(plan.peak);
    return result;
  }

  std::shared_ptr<Policy> policy_;
  LeRobotDataset dataset_;
  TrainOptions options_;
  SweepBase base_;
  PrefixCut shared_cut_;
  std::size_t held_stage_ = 0;
  bool warned_ = false;
};

}  // namespace

std::unique_ptr<SweepSubject> sweep_policy(std::shared_ptr<Policy> policy, const LeRobotDataset& dataset,
                                           TrainOptions options) {
  return std::make_unique<PolicySubject>(std::move(policy), dataset, std::move(options));
}

}  // namespace thaw
