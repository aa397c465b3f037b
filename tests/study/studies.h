// A sweep of the toy module: four blocks, a few steps, and held-out pairs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "thaw/study/sweep.h"
#include "train/toy.h"

namespace thaw::toy {

/// Held-out loss on pairs that no step sees.
inline EvaluationResult held_out(Model model) {
  const Pair unseen = pair(1'000'000, 16);
  return {.loss = at::mse_loss(model->forward(unseen.x), unseen.y).item<double>(), .samples = 16};
}

/// The task of a point: batches of its seed.
inline std::unique_ptr<TrainTask> sweep_task(Model model, std::uint64_t seed) {
  const auto first = static_cast<std::int64_t>(seed) * 1000;
  return make_task<Pair>([first](std::int64_t number) { return pair(first + number); },
                         [model](const Pair& p) mutable { return at::mse_loss(model->forward(p.x), p.y); },
                         [model](std::int64_t) { return held_out(model); });
}

inline TrainOptions sweep_options(std::int64_t steps = 4) {
  return {.steps = steps,
          .batch_size = 4,
          .precision = Precision::fp32,
          .device = at::Device(at::kCPU),
          .optimizer = {.learning_rate = 1e-2},
          .schedule = {.kind = ScheduleKind::constant, .warmup_steps = 0},
          .log_every = 1,
          .quiet = true};
}

inline Model sweep_model() { return Model(ModelOptions{.blocks = 4}); }

inline std::unique_ptr<SweepSubject> sweep_toy(Model model, std::int64_t steps = 4) {
  return sweep_module(
      model.ptr(), [model](const SweepPoint& point) { return sweep_task(model, point.seed); }, sweep_options(steps));
}

/// The last 0, 1 and 2 blocks beside the head, with two seeds.
inline SweepGrid small_grid() {
  return {.base = LayerFreezePolicy{}.freeze("*").train("head.*"),
          .stacks = {{"blocks", {0, 1, 2}}},
          .learning_rates = {1e-2},
          .seeds = {1, 2}};
}

/// What results.jsonl says beside times.
inline std::vector<std::string> lines_without_times(const std::filesystem::path& file) {
  std::vector<std::string> lines;
  for (Json json : read_json_lines(file)) {
    json.erase("times");
    lines.push_back(json.dump());
  }
  return lines;
}

}  // namespace thaw::toy
