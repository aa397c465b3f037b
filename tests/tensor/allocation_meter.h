/// The largest block that `operator new` of this test program was asked for: what a parser of hostile sizes must not
/// take.
#pragma once

#include <cstddef>

namespace thaw::test {

void reset_largest_allocation();
[[nodiscard]] std::size_t largest_allocation();

}  // namespace thaw::test
