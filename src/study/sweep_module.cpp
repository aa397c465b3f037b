#include <torch/nn/module.h>

#include <utility>

#include "sweep_base_impl.h"
#include "sweep_setting_impl.h"
#include "sweep_training_impl.h"
#include "thaw/freeze/block_stacks.h"
#include "thaw/policy/policy.h"
#include "thaw/study/sweep_subject.h"
#include "thaw/tensor/device.h"

namespace thaw {
namespace {

class ModuleSubject final : public SweepSubject {
 public:
  ModuleSubject(std::shared_ptr<torch::nn::Module> module,
                std::function<std::unique_ptr<TrainTask>(const SweepPoint&)> make_task, TrainOptions options)
      : module_(std::move(module)),
        make_task_(std::move(make_task)),
        options_(with_device(std::move(options))),
        base_(on_device(module_, options_), nullptr) {}

  [[nodiscard]] std::vector<SweepFreeze> freezes(const SweepGrid& grid) override {
    return sweep_freezes(grid, layout_of(*module_),
                         [this](const LayerFreezePolicy& rules) { return rules.resolve(*module_); });
  }
  [[nodiscard]] double learning_rate() const override {
    return options_.optimizer.learning_rate.value_or(TrainingPreset{}.learning_rate);
  }
  [[nodiscard]] std::int64_t steps() const override { return options_.steps; }
  [[nodiscard]] Json setting() const override {
    return {{"kind", "module"}, {"base", base_.digest()}, {"options", options_to_json(options_)}};
  }
  void prepare(std::span<const SweepFreeze> /*freezes*/) override {}

  std::optional<SweepResult> train(const SweepPoint& point, const SweepFreeze& freeze,
                                   const std::filesystem::path& head_folder, const SweepWatcher& watcher) override {
    SweepResult result{
        .point = point, .trainable_parameters = freeze.plan.elements(ParameterClass::trainable), .cut = "none"};
    SweepBase::Loan loan(base_, freeze.plan);
    bool finished = false;
    {
      Trainer trainer(module_, base_.with_digests(freeze.plan), options_of_point(options_, point));
      const auto task = [this, &point](const Trainer&) { return make_task_(point); };
      finished = train_point(trainer, task, head_folder, watcher, result);
    }
    loan.give_back();
    return finished ? std::optional(std::move(result)) : std::nullopt;
  }

 private:
  std::shared_ptr<torch::nn::Module> module_;
  std::function<std::unique_ptr<TrainTask>(const SweepPoint&)> make_task_;
  TrainOptions options_;
  SweepBase base_;
};

}  // namespace

std::unique_ptr<SweepSubject> sweep_module(std::shared_ptr<torch::nn::Module> module,
                                           std::function<std::unique_ptr<TrainTask>(const SweepPoint&)> make_task,
                                           TrainOptions options) {
  return std::make_unique<ModuleSubject>(std::move(module), std::move(make_task), std::move(options));
}

}  // namespace thaw
