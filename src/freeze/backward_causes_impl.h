/// Why backward walks what does not train, in sentences.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "line_flow_impl.h"
#include "thaw/policy/layout.h"

namespace thaw {

/// For each stage whose trainable parameter sends its gradient through frozen blocks, or frozen stages without blocks:
/// "state_proj.weight makes backward walk 16 language blocks (B.language.0..15)".
[[nodiscard]] std::vector<std::string> backward_causes(const ModelLayout& layout, const std::vector<StageFlow>& flow,
                                                       const std::function<bool(const std::string&)>& trains);

}  // namespace thaw
