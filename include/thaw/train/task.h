/// What the training loop trains on: anything that gives a scalar loss for a numbered micro-batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace thaw {

/// Which micro-batch is asked for. The loss must be a pure function of it and of the weights: that is what makes a
/// resumed run equal an uninterrupted one.
struct MicroStep {
  std::int64_t step = 0;         ///< optimizer step, from 0
  std::int64_t micro_batch = 0;  ///< since the start of training: step * accumulation + position in the step
  std::uint64_t seed = 0;        ///< TrainOptions::seed
};

/// Held-out measurements.
struct EvaluationResult {
  double loss = 0.0;
  std::map<std::string, double> metrics;  ///< e.g. "action_mse" (normalised), "action_mse_robot" (robot units squared)
  /// Metrics taken apart: "action_mse_by_dimension" (D), "action_mse_by_step" of the chunk (T), both normalised,
  /// "action_mse_robot_by_dimension" (D). NaN where nothing was recorded.
  std::map<std::string, std::vector<double>> series;
  std::int64_t samples = 0;
};

/// Tensors on the device that, beside the weights, decide a loss.
using StepInputs = std::map<std::string, at::Tensor>;

class TrainTask {
 public:
  virtual ~TrainTask() = default;

  /// Scalar loss of one micro-batch, with its graph. Called in the autocast scope of the run's precision and with
  /// LibTorch's default generators seeded from (seed, micro_batch), so that dropout repeats as well.
  [[nodiscard]] virtual at::Tensor loss(const MicroStep& micro_step) = 0;
  /// Whether loss() is loss_of(prepare()): a step whose loss depends on nothing but tensors on the device can be
  /// recorded and played back (TrainOptions::cuda_graph).
  [[nodiscard]] virtual bool is_in_two_parts() const { return false; }
  /// What changes from one micro-batch to the next. @throws UsageError unless is_in_two_parts()
  [[nodiscard]] virtual StepInputs prepare(const MicroStep& micro_step);
  /// The loss as a function of `inputs` and the weights alone: it reads nothing else that changes, does not wait for
  /// the device, and copies nothing to it. @throws UsageError unless is_in_two_parts()
  [[nodiscard]] virtual at::Tensor loss_of(StepInputs inputs);
  /// Identities of the samples that the last loss() or prepare() used.
  [[nodiscard]] virtual std::vector<std::int64_t> last_samples() const { return {}; }
  /// Called without grad and with the module in eval mode. nullopt: there is nothing to evaluate on.
  [[nodiscard]] virtual std::optional<EvaluationResult> evaluate(std::int64_t /*step*/) { return std::nullopt; }
  /// Micro-batches of one pass over the data; 0 when there is no such thing.
  [[nodiscard]] virtual std::int64_t micro_batches_per_epoch() const { return 0; }
  /// Seconds spent waiting for data since construction.
  [[nodiscard]] virtual double data_wait_seconds() const { return 0.0; }
};

/// A task made of two callables over the user's own batch type.
template <class Batch>
class CallableTask final : public TrainTask {
 public:
  using Batches = std::function<Batch(std::int64_t)>;
  using Loss = std::function<at::Tensor(const Batch&)>;
  using Evaluate = std::function<EvaluationResult(std::int64_t)>;

  CallableTask(Batches batches, Loss loss, Evaluate evaluate)
      : batches_(std::move(batches)), loss_(std::move(loss)), evaluate_(std::move(evaluate)) {}

  [[nodiscard]] at::Tensor loss(const MicroStep& micro_step) override {
    last_ = micro_step.micro_batch;
    return loss_(batches_(micro_step.micro_batch));
  }
  [[nodiscard]] std::vector<std::int64_t> last_samples() const override { return {last_}; }
  [[nodiscard]] std::optional<EvaluationResult> evaluate(std::int64_t step) override {
    if (!evaluate_) return std::nullopt;
    return evaluate_(step);
  }

 private:
  Batches batches_;
  Loss loss_;
  Evaluate evaluate_;
  std::int64_t last_ = 0;
};

/// `batches`: micro-batch number -> Batch, a pure function. `loss`: Batch -> scalar tensor. `evaluate`: step -> result.
///
///     auto task = thaw::make_task<Pair>([&](std::int64_t i) { return load(i); },
///                                       [&](const Pair& p) { return at::mse_loss(model->forward(p.x), p.y); });
///     thaw::Trainer(model.ptr(), plan, options).fit(*task);
template <class Batch>
[[nodiscard]] std::unique_ptr<TrainTask> make_task(std::function<Batch(std::int64_t)> batches,
                                                   std::function<at::Tensor(const Batch&)> loss,
                                                   std::function<EvaluationResult(std::int64_t)> evaluate = {}) {
  return std::make_unique<CallableTask<Batch>>(std::move(batches), std::move(loss), std::move(evaluate));
}

}  // namespace thaw
