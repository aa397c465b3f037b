/// Where values and gradients flow along a line of stages.
#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "thaw/policy/layout.h"

namespace thaw {

/// For each stage: does the output key depend on what it writes? Backwards over the line; a key that a later stage
/// writes anew hides the earlier writer from readers behind it.
[[nodiscard]] std::vector<bool> live_stages(const ModelLayout& layout);

struct StageFlow {
  static constexpr std::size_t kNoSource = std::numeric_limits<std::size_t>::max();
  bool trains = false;             ///< uses a trainable parameter
  bool reads_gradient = false;     ///< one of its inputs depends on a trainable parameter
  bool walks = false;              ///< backward passes through it
  std::size_t source = kNoSource;  ///< the first stage with a trainable parameter that its inputs depend on
};

/// Forwards over the line: a stage that trains, or reads what depends on something trainable, makes all it writes
/// depend on it.
[[nodiscard]] std::vector<StageFlow> gradient_flow(const ModelLayout& layout,
                                                   const std::function<bool(const std::string&)>& trains);

}  // namespace thaw
