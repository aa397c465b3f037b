// A policy that times its own stages, and a task that times what surrounds them: how `thaw bench` splits the trainer's
// real step into parts without touching it.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "thaw/policy/policy.h"
#include "thaw/train/task.h"

namespace thaw::cli {

using Clock = std::chrono::steady_clock;

/// Seconds from one moment to another.
[[nodiscard]] inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// What one stage did since the clock was reset.
struct StageTime {
  double seconds = 0.0;
  std::int64_t runs = 0;
  std::int64_t rows = 0;  ///< tokens of all samples in the last run: rows of its matrix products
};

/// Times of all stages of a line. Thread safe: a trainer may run stages on its loader's threads.
class StageClock {
 public:
  explicit StageClock(std::size_t stages) : times_(stages) {}
  void reset();
  void note(std::size_t stage, Clock::time_point begin, Clock::time_point end, std::int64_t rows);
  [[nodiscard]] std::vector<StageTime> times() const;
  /// Forgets when stages began, but not how long they took.
  void reset_begins();
  /// When the first stage with an index of at least `first` began since then; nullopt: none did.
  [[nodiscard]] std::optional<Clock::time_point> first_begin(std::size_t first) const;

 private:
  mutable std::mutex mutex_;
  std::vector<StageTime> times_;
  std::vector<std::pair<std::size_t, Clock::time_point>> begins_;  ///< stage and moment, in order
};

/// The policy it is given, with every stage of its line timed. Everything else is handed on.
class TimedPolicy final : public Policy {
 public:
  explicit TimedPolicy(std::shared_ptr<Policy> policy);

  [[nodiscard]] StageClock& clock() const noexcept { return *clock_; }

  [[nodiscard]] std::string type() const override { return policy_->type(); }
  [[nodiscard]] const Features& input_features() const override { return policy_->input_features(); }
  [[nodiscard]] const Features& output_features() const override { return policy_->output_features(); }
  [[nodiscard]] std::int64_t chunk_size() const override { return policy_->chunk_size(); }
  [[nodiscard]] std::vector<std::int64_t> observation_delta_indices() const override {
    return policy_->observation_delta_indices();
  }
  [[nodiscard]] std::vector<std::int64_t> action_delta_indices() const override {
    return policy_->action_delta_indices();
  }
  [[nodiscard]] TrainingPreset training_preset() const override { return policy_->training_preset(); }
  [[nodiscard]] const ModelLayout& layout() const override { return policy_->layout(); }
  [[nodiscard]] std::shared_ptr<torch::nn::Module> module() const override { return policy_->module(); }
  [[nodiscard]] std::span<const Stage> line() const override { return line_; }
  [[nodiscard]] std::size_t first_draw_stage() const override { return policy_->first_draw_stage(); }
  [[nodiscard]] PrefixState begin(const Batch& batch) const override { return policy_->begin(batch); }
  [[nodiscard]] PrefixState begin_without_images(const Batch& batch) const override {
    return policy_->begin_without_images(batch);
  }
  [[nodiscard]] Draw draw(const Batch& batch, std::uint64_t seed, DrawPurpose purpose, std::uint64_t step,
                          std::int64_t draws) const override {
    return policy_->draw(batch, seed, purpose, step, draws);
  }
  void add_draw(PrefixState& state, const Batch& batch, const Draw& draw) const override {
    policy_->add_draw(state, batch, draw);
  }
  [[nodiscard]] at::Tensor loss(const PrefixState& state, const Batch& batch, const Draw& draw,
                                Reduction reduction) const override {
    return policy_->loss(state, batch, draw, reduction);
  }
  [[nodiscard]] at::Tensor sample(const Batch& batch, const at::Tensor& noise) const override {
    return policy_->sample(batch, noise);
  }
  [[nodiscard]] at::Tensor sample_from(PrefixState prefix, const at::Tensor& noise) const override {
    return policy_->sample_from(std::move(prefix), noise);
  }
  [[nodiscard]] Json config_json() const override { return policy_->config_json(); }
  void save_pretrained(const std::filesystem::path& folder) const override { policy_->save_pretrained(folder); }
  [[nodiscard]] std::map<std::string, at::Tensor> read_again(std::span<const std::string> names) const override {
    return policy_->read_again(names);
  }

 private:
  std::shared_ptr<Policy> policy_;
  std::shared_ptr<StageClock> clock_;
  std::vector<Stage> line_;
};

/// Where the time of one optimizer step went, in seconds. The parts add up to `total`.
struct StepParts {
  double data = 0.0;            ///< waiting for the batch
  double prefix = 0.0;          ///< what comes before the gradient boundary: stages, or reading them from a cache
  double suffix_forward = 0.0;  ///< stages from the boundary on, and the loss
  double backward = 0.0;
  double update = 0.0;  ///< gradient norm, clipping, optimizer, and everything else the step does
  double total = 0.0;
};

/// Hands on to `task` and notes when its loss began, when the boundary was passed, and when backward was done.
class TimedTask final : public TrainTask {
 public:
  /// All must outlive it. `boundary`: index of the first stage that runs under grad.
  TimedTask(TrainTask& task, const TimedPolicy& policy, std::size_t boundary)
      : task_(task), policy_(policy), boundary_(boundary) {}

  [[nodiscard]] at::Tensor loss(const MicroStep& micro_step) override;
  // A recorded step is one launch: what lies behind the boundary is not told apart then, and counts as update.
  [[nodiscard]] bool is_in_two_parts() const override { return task_.is_in_two_parts(); }
  [[nodiscard]] StepInputs prepare(const MicroStep& micro_step) override;
  [[nodiscard]] at::Tensor loss_of(StepInputs inputs) override { return task_.loss_of(std::move(inputs)); }
  [[nodiscard]] std::vector<std::int64_t> last_samples() const override { return task_.last_samples(); }
  [[nodiscard]] std::optional<EvaluationResult> evaluate(std::int64_t step) override { return task_.evaluate(step); }
  [[nodiscard]] std::int64_t micro_batches_per_epoch() const override { return task_.micro_batches_per_epoch(); }
  [[nodiscard]] double data_wait_seconds() const override { return task_.data_wait_seconds(); }

  /// Forgets earlier steps, stage times included.
  void reset();
  /// Parts of the step since reset(), which took `total` seconds.
  [[nodiscard]] StepParts parts(double total) const;

 private:
  TrainTask& task_;
  const TimedPolicy& policy_;
  std::size_t boundary_;
  StepParts parts_;
  std::shared_ptr<double> backward_ = std::make_shared<double>(0.0);  ///< written by the autograd engine
};

}  // namespace thaw::cli
