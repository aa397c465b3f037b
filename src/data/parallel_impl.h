/// A loop over independent pieces of work on a few threads.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <vector>

namespace thaw::lerobot {

/// Runs work(0) … work(count - 1) on up to one thread a core and waits. Element i of the result is what work(i) threw,
/// or null.
[[nodiscard]] std::vector<std::exception_ptr> parallel_for(std::size_t count,
                                                           const std::function<void(std::size_t)>& work);

}  // namespace thaw::lerobot
