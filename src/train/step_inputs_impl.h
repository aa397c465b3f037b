// What a policy's training step needs beside its weights, as one set of named tensors and back.
#pragma once

#include <cstdint>
#include <vector>

#include "thaw/policy/batch.h"
#include "thaw/policy/policy.h"
#include "thaw/train/task.h"

namespace thaw {

/// The state at the gradient boundary, the draw, and of the batch what a loss reads: actions and their padding.
[[nodiscard]] StepInputs inputs_of(const PrefixState& state, const Batch& batch, const Draw& draw);

[[nodiscard]] PrefixState state_in(const StepInputs& inputs);
[[nodiscard]] Draw draw_in(const StepInputs& inputs);
/// `indices`: of the samples that the inputs were made of.
[[nodiscard]] Batch batch_in(const StepInputs& inputs, std::vector<std::int64_t> indices);

}  // namespace thaw
