/// Where on the line of stages a prefix is cut off to be cached.
#pragma once

#include <cstddef>
#include <string_view>

#include "thaw/policy/layout.h"

namespace thaw {

enum class CacheCut {
  none,       ///< nothing is cached
  automatic,  ///< chosen by cost (freeze/cost_model.h)
  vision,     ///< what the image towers give
  hidden,     ///< hidden states between blocks, with what later stages read of the blocks before
  kv,         ///< keys and values of all blocks that the suffix reads
};

/// "none", "auto", "vision", "hidden", "kv". @throws UsageError with the names there are
[[nodiscard]] CacheCut parse_cache_cut(std::string_view name);
[[nodiscard]] std::string_view cache_cut_name(CacheCut cut);

/// The last place called `cut` at or before `boundary` (FreezePlan::boundary), as the index of the first stage behind
/// it; 0 for none. @throws UsageError when there is none: the plan trains something before it (named)
[[nodiscard]] std::size_t find_cut(const ModelLayout& layout, std::size_t boundary, CacheCut cut);

}  // namespace thaw
