#include <algorithm>
#include <atomic>
#include <thread>

#include "parallel_impl.h"

namespace thaw::lerobot {
namespace {

constexpr std::size_t kMostThreads = 16;

}  // namespace

std::vector<std::exception_ptr> parallel_for(std::size_t count, const std::function<void(std::size_t)>& work) {
  std::vector<std::exception_ptr> errors(count);
  std::atomic<std::size_t> next{0};
  const auto run = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  };
  const std::size_t threads =
      std::min({count, kMostThreads, std::size_t{std::max(1U, std::thread::hardware_concurrency())}});
  std::vector<std::jthread> helpers;
  for (std::size_t i = 1; i < threads; ++i) helpers.emplace_back(run);
  run();
  helpers.clear();  // joins
  return errors;
}

}  // namespace thaw::lerobot
