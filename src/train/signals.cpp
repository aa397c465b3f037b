#include "thaw/train/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace thaw {
namespace {

std::atomic<int> requested{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch only lock-free atomics");
std::atomic<bool> in_scope{false};
struct sigaction previous_int;
struct sigaction previous_term;

/// The first signal is a request, the second an order.
void on_signal(int signal) {
  constexpr int kShellOffset = 128;
  int none = 0;
  if (!requested.compare_exchange_strong(none, signal)) ::_exit(kShellOffset + signal);
}

void install(int signal, struct sigaction& previous) {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  ::sigaction(signal, &action, &previous);
}

}  // namespace

SignalScope::SignalScope() {
  bool free = false;
  installed_ = in_scope.compare_exchange_strong(free, true);
  if (!installed_) return;
  requested = 0;
  install(SIGINT, previous_int);
  install(SIGTERM, previous_term);
}

SignalScope::~SignalScope() {
  if (!installed_) return;
  ::sigaction(SIGINT, &previous_int, nullptr);
  ::sigaction(SIGTERM, &previous_term, nullptr);
  in_scope = false;
}

int stop_signal() noexcept { return requested; }

}  // namespace thaw
