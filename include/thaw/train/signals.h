/// SIGINT and SIGTERM ask a run to finish its step and save; a second one ends the process at once.
#pragma once

namespace thaw {

/// Installs the handlers; the destructor puts the old ones back. At most one at a time does so, inner ones do nothing.
class SignalScope {
 public:
  SignalScope();
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

 private:
  bool installed_ = false;
};

/// Number of the signal that asked to stop since the outermost scope began; 0 when none did.
[[nodiscard]] int stop_signal() noexcept;

}  // namespace thaw
