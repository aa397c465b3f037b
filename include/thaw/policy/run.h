/// Running parts of a policy's line of stages.
#pragma once

#include <cstddef>
#include <span>

#include "thaw/policy/policy.h"

namespace thaw {

// Each runs line[from, to) on `state`. @throws UsageError unless from <= to <= line.size()

/// Every key stays in the state.
void run_stages(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state);

/// Lets go of every key as soon as no later stage of the whole line reads it: what backward needs of it, autograd holds
/// by itself.
void run_stages_once(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state);

/// run_stages_once() without grad.
void run_frozen_stages(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state);

}  // namespace thaw
