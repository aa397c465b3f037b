// Other programs: run to their end or their deadline, with what they print.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace thaw {

struct ProcessEnd {
  int exit_code = 0;  ///< where no signal ended it
  int signal = 0;
  bool timed_out = false;  ///< killed with everything it had started
  bool stopped = false;    ///< likewise, because `stop` said so
  bool too_long = false;   ///< likewise, because it printed more than anybody reads
  std::string out;

  [[nodiscard]] bool ok() const noexcept {
    return exit_code == 0 && signal == 0 && !timed_out && !stopped && !too_long;
  }
  /// "ended with exit code 3", "ended by signal 9", …
  [[nodiscard]] std::string text() const;
};

struct ProcessOptions {
  std::vector<std::string> command;                ///< program (looked up in PATH) and arguments
  std::map<std::string, std::string> environment;  ///< beside what this process has
  std::optional<double> seconds;                   ///< until it is killed
  std::function<bool()> stop;                      ///< asked now and then; empty: never
};

/// Runs a program with its own process group and no standard input; its stdout comes back, its stderr is this
/// process's. @throws IoError when it cannot be started
[[nodiscard]] ProcessEnd run_process(const ProcessOptions& options);

/// A program that runs beside others, as above, its output dropped. Killed when the object goes.
class BackgroundProcess {
 public:
  explicit BackgroundProcess(const ProcessOptions& options);
  ~BackgroundProcess();
  BackgroundProcess(const BackgroundProcess&) = delete;
  BackgroundProcess& operator=(const BackgroundProcess&) = delete;
  /// nullopt: it still runs.
  [[nodiscard]] std::optional<ProcessEnd> end();
  void send(int signal) const;

 private:
  pid_t process_ = -1;
};

}  // namespace thaw
