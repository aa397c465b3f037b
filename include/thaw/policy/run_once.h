/// Running stages whose inputs nobody wants a second time.
#pragma once

#include <cstddef>
#include <span>

#include "thaw/policy/policy.h"

namespace thaw {

/// run_stages() that lets go of every key as soon as no later stage of the whole line reads it: what backward needs of
/// it, autograd holds by itself.
void run_stages_once(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state);

}  // namespace thaw
