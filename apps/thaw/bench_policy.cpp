#include "bench_policy.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/engine.h>

#include <algorithm>

namespace thaw::cli {
namespace {

/// Samples times tokens of (B, L, D) or (B, heads, L, d).
std::int64_t rows_of(const at::Tensor& tensor) {
  if (tensor.dim() < 3) return tensor.dim() == 0 ? 0 : tensor.size(0);
  return tensor.size(0) * tensor.size(-2);
}

/// Rows of the largest tensor that the stage left: its hidden states, or its keys.
std::int64_t rows_left(const StageInfo& info, const PrefixState& state) {
  std::int64_t rows = 0;
  std::int64_t largest = 0;
  for (const std::string& key : info.writes) {
    if (!state.has(key) || state.at(key).numel() <= largest) continue;
    largest = state.at(key).numel();
    rows = rows_of(state.at(key));
  }
  return rows;
}

}  // namespace

void StageClock::reset() {
  const std::lock_guard lock(mutex_);
  std::fill(times_.begin(), times_.end(), StageTime{});
  begins_.clear();
}

void StageClock::reset_begins() {
  const std::lock_guard lock(mutex_);
  begins_.clear();
}

void StageClock::note(std::size_t stage, Clock::time_point begin, Clock::time_point end, std::int64_t rows) {
  const std::lock_guard lock(mutex_);
  StageTime& time = times_.at(stage);
  time.seconds += seconds_between(begin, end);
  ++time.runs;
  time.rows = rows;
  begins_.emplace_back(stage, begin);
}

std::vector<StageTime> StageClock::times() const {
  const std::lock_guard lock(mutex_);
  return times_;
}

std::optional<Clock::time_point> StageClock::first_begin(std::size_t first) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [stage, begin] : begins_) {
    if (stage >= first) return begin;
  }
  return std::nullopt;
}

TimedPolicy::TimedPolicy(std::shared_ptr<Policy> policy)
    : policy_(std::move(policy)),
      clock_(std::make_shared<StageClock>(policy_->line().size())),
      line_(policy_->line().begin(), policy_->line().end()) {
  preprocessor_ = policy_->preprocessor();
  postprocessor_ = policy_->postprocessor();
  source_ = policy_->source();
  for (std::size_t index = 0; index < line_.size(); ++index) {
    Stage& stage = line_[index];
    stage.run = [run = stage.run, info = stage.info, index, clock = clock_](PrefixState& state) {
      const Clock::time_point begin = Clock::now();
      run(state);
      clock->note(index, begin, Clock::now(), rows_left(info, state));
    };
  }
}

at::Tensor TimedTask::loss(const MicroStep& micro_step) {
  policy_.clock().reset_begins();
  const double waited = task_.data_wait_seconds();
  const Clock::time_point begin = Clock::now();
  at::Tensor loss = task_.loss(micro_step);
  const Clock::time_point end = Clock::now();
  const Clock::time_point boundary = policy_.clock().first_begin(boundary_).value_or(end);
  const double data = task_.data_wait_seconds() - waited;
  parts_.data += data;
  parts_.prefix += seconds_between(begin, boundary) - data;
  parts_.suffix_forward += seconds_between(boundary, end);
  // The engine runs what is queued while a gradient is computed when the whole backward pass is done.
  loss.register_hook([end, backward = backward_](const at::Tensor& gradient) {
    torch::autograd::Engine::get_default_engine().queue_callback(
        [end, backward] { *backward += seconds_between(end, Clock::now()); });
    return gradient;
  });
  return loss;
}

StepInputs TimedTask::prepare(const MicroStep& micro_step) {
  const double waited = task_.data_wait_seconds();
  const Clock::time_point begin = Clock::now();
  StepInputs inputs = task_.prepare(micro_step);
  const double data = task_.data_wait_seconds() - waited;
  parts_.data += data;
  parts_.prefix += seconds_between(begin, Clock::now()) - data;
  return inputs;
}

void TimedTask::reset() {
  policy_.clock().reset();
  parts_ = {};
  *backward_ = 0.0;
}

StepParts TimedTask::parts(double total) const {
  StepParts parts = parts_;
  parts.backward = *backward_;
  parts.total = total;
  parts.update = total - parts.data - parts.prefix - parts.suffix_forward - parts.backward;
  return parts;
}

}  // namespace thaw::cli
