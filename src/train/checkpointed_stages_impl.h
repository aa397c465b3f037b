// Activation checkpointing: stages under grad keep their inputs alone and run again for backward.
#pragma once

#include <cstddef>
#include <span>

#include "thaw/policy/policy.h"
#include "thaw/policy/run.h"
#include "thaw/train/precision.h"

namespace thaw {

/// run_stages_once() with every stage checkpointed. Values and gradients are those of run_stages_once(). `precision`:
/// of the autocast scope that backward runs the stages in again. The stages must outlive the graph.
/// Reference: torch.utils.checkpoint (reentrant).
void run_checkpointed_stages(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state,
                             Precision precision);

}  // namespace thaw
