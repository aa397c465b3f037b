#include <ATen/ATen.h>

#include <algorithm>

#include "held_out_impl.h"
#include "thaw/train/policy_task.h"

namespace thaw {
namespace {

/// `count` of `size` positions, evenly spread from the first to nearly the last; 0: all.
std::vector<std::int64_t> spread(std::int64_t size, std::int64_t count) {
  if (count <= 0 || count > size) count = size;
  std::vector<std::int64_t> positions(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) positions[static_cast<std::size_t>(i)] = i * size / count;
  return positions;
}

/// (B, T, 1) float64: 1 for a recorded step, 0 for one repeated beyond the episode's end.
at::Tensor recorded_steps(const Batch& batch, const at::Tensor& action) {
  if (!batch.has("action_is_pad")) return at::ones({action.size(0), action.size(1), 1}, at::kDouble);
  return batch.at("action_is_pad").cpu().logical_not().to(at::kDouble).unsqueeze(-1);
}

/// (B, T, D) float64, zero where nothing was recorded.
at::Tensor squared_errors(const at::Tensor& predicted, const at::Tensor& recorded, const at::Tensor& steps) {
  const at::Tensor difference = predicted.cpu().to(at::kDouble) - recorded.cpu().to(at::kDouble);
  return difference.square() * steps;
}

/// `sum` plus `more`, where `sum` may be undefined as yet.
void add_to(at::Tensor& sum, const at::Tensor& more) { sum = sum.defined() ? sum + more : more; }

std::vector<double> to_vector(const at::Tensor& values) {
  const at::Tensor flat = values.contiguous();
  const double* first = flat.const_data_ptr<double>();
  return {first, first + flat.numel()};
}

/// The chunk in robot units.
at::Tensor in_robot_units(const Policy& policy, Batch batch, const at::Tensor& chunk) {
  batch.tensors["action"] = chunk;
  return policy.postprocessor()(std::move(batch)).at("action");
}

}  // namespace

struct HeldOut::Sums {
  double loss = 0.0;
  double normalised = 0.0;
  double robot = 0.0;
  double elements = 0.0;
  at::Tensor normalised_errors;  ///< (T, D) float64, summed over samples
  at::Tensor robot_errors;       ///< likewise
  at::Tensor recorded;           ///< (T, 1) float64: samples that recorded the step

  [[nodiscard]] std::map<std::string, std::vector<double>> series() const {
    if (!recorded.defined()) return {};
    const at::Tensor all = recorded.sum();
    const auto width = static_cast<double>(normalised_errors.size(1));
    return {{"action_mse_by_dimension", to_vector(normalised_errors.sum(0) / all)},
            {"action_mse_by_step", to_vector(normalised_errors.sum(1) / (recorded.squeeze(1) * width))},
            {"action_mse_robot_by_dimension", to_vector(robot_errors.sum(0) / all)}};
  }
};

HeldOut::HeldOut(std::shared_ptr<const Policy> policy, LeRobotDataset dataset, std::shared_ptr<PrefixSource> prefixes,
                 const TrainOptions& options)
    : policy_(std::move(policy)),
      dataset_(std::move(dataset)),
      prefixes_(std::move(prefixes)),
      positions_(spread(dataset_.size(), options.eval_samples)),
      batch_size_(options.batch_size),
      seed_(options.seed) {}

EvaluationResult HeldOut::measure() const {
  const at::NoGradGuard no_grad;
  Sums sums;
  for (auto begin = positions_.begin(); begin != positions_.end();) {
    const auto end = begin + std::min<std::ptrdiff_t>(batch_size_, positions_.end() - begin);
    add_batch({begin, end}, sums);
    begin = end;
  }
  const double samples = std::max(static_cast<double>(positions_.size()), 1.0);
  const double elements = std::max(sums.elements, 1.0);
  return {.loss = sums.loss / samples,
          .metrics = {{"action_mse", sums.normalised / elements}, {"action_mse_robot", sums.robot / elements}},
          .series = sums.series(),
          .samples = static_cast<std::int64_t>(positions_.size())};
}

void HeldOut::add_batch(const std::vector<std::int64_t>& positions, Sums& sums) const {
  std::vector<Sample> samples;
  samples.reserve(positions.size());
  for (const std::int64_t position : positions) samples.push_back(prefixes_->read(dataset_, position));
  PreparedBatch prepared = prefixes_->gather(std::move(samples), policy_->preprocessor());
  const std::size_t shared = policy_->first_draw_stage();
  const PrefixState prefix = prefixes_->state_before(prepared, shared);
  const Batch& raw = prepared.raw;
  const Batch& batch = prepared.batch;
  const Draw draw = policy_->draw(batch, seed_, DrawPurpose::evaluation, /*step=*/0);
  const std::size_t end = policy_->line().size();
  sums.loss += policy_loss_from(*policy_, prefix, shared, end, batch, draw, Reduction::none).sum().item<double>();

  const at::Tensor chunk = policy_->sample_from(prefix, draw.noise);
  const at::Tensor steps = recorded_steps(batch, chunk);
  const at::Tensor normalised = squared_errors(chunk, batch.at("action"), steps);
  const at::Tensor robot = squared_errors(in_robot_units(*policy_, batch, chunk), raw.at("action"), steps);
  sums.normalised += normalised.sum().item<double>();
  sums.robot += robot.sum().item<double>();
  add_to(sums.normalised_errors, normalised.sum(0));
  add_to(sums.robot_errors, robot.sum(0));
  add_to(sums.recorded, steps.sum(0));
  sums.elements += steps.sum().item<double>() * static_cast<double>(chunk.size(-1));
}

}  // namespace thaw
