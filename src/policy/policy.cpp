#include "thaw/policy/policy.h"

#include "thaw/core/error.h"

namespace thaw {

void run_stages(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state) {
  if (from > to || to > line.size()) {
    throw UsageError(Problem{.where = "run_stages",
                             .expected = "from <= to <= " + std::to_string(line.size()),
                             .found = "[" + std::to_string(from) + ", " + std::to_string(to) + ")"});
  }
  for (const Stage& stage : line.subspan(from, to - from)) stage.run(state);
}

}  // namespace thaw
