// What golden sets say of a training that the reference made (tests/golden/README.md: optimizer, scheduler).
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>

#include "thaw/core/json.h"
#include "thaw/train/options.h"

namespace thaw::golden {

inline constexpr std::int64_t kRecordedSteps = 10;

/// `recorded` holds "optimizer" and "scheduler".
inline TrainOptions recorded_options(const Json& recorded) {
  const Json& optimizer = recorded["optimizer"];
  const Json& scheduler = recorded["scheduler"];
  TrainOptions options{.steps = kRecordedSteps, .precision = Precision::fp32, .quiet = true};
  options.optimizer = {.learning_rate = optimizer["lr"].get<double>(),
                       .beta1 = optimizer["betas"][0].get<double>(),
                       .beta2 = optimizer["betas"][1].get<double>(),
                       .eps = optimizer["eps"].get<double>(),
                       .weight_decay = optimizer["weight_decay"].get<double>()};
  options.grad_clip_norm = optimizer["grad_clip_norm"].get<double>();
  options.schedule = {.kind = ScheduleKind::cosine,
                      .warmup_steps = scheduler["num_warmup_steps"].get<std::int64_t>(),
                      .decay_steps = scheduler["num_decay_steps"].get<std::int64_t>(),
                      .decay_learning_rate = scheduler["decay_lr"].get<double>(),
                      .auto_scale = false};
  return options;
}

inline at::Tensor scalar(double value) { return at::scalar_tensor(value, at::kDouble); }

}  // namespace thaw::golden
