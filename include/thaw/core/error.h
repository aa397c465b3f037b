/// One exception family. A message says what was expected, what was found, where, and what to do about it.
#pragma once

#include <stdexcept>
#include <string>

namespace thaw {

/// Exit codes of the thaw command (documented in README.md).
enum class ExitCode : int {
  ok = 0,
  check_failed = 1,   ///< a verification found a difference, or training was stopped because it diverged
  bad_input = 2,      ///< a file, dataset, flag or rule is not usable; nothing was written
  interrupted = 130,  ///< SIGINT: the step was finished and saved
  terminated = 143,   ///< SIGTERM: the step was finished and saved
};

/// The parts of an error message. Empty parts are left out.
struct Problem {
  std::string where;  ///< file, tensor, field or flag
  std::string expected;
  std::string found;
  std::string fix;  ///< what the user can do
};

/// "WHERE: expected E, found F. FIX"
[[nodiscard]] std::string describe(const Problem& problem);

/// Base of everything thaw throws on purpose.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
  explicit Error(const Problem& problem) : Error(describe(problem)) {}
  [[nodiscard]] virtual ExitCode exit_code() const noexcept { return ExitCode::bad_input; }
};

/// A flag, option, rule or configuration field that cannot be used.
class UsageError : public Error {
  using Error::Error;
};

/// A file whose content is not what it should be.
class FormatError : public Error {
  using Error::Error;
};

/// The operating system refused: missing file, permission, full disk, folder in use.
class IoError : public Error {
  using Error::Error;
};

/// Two things that must agree do not: checkpoint and model, dataset and policy, head and base.
class MismatchError : public Error {
  using Error::Error;
};

/// A check that thaw ran found a difference (exit code 1).
class CheckFailed : public Error {
 public:
  using Error::Error;
  [[nodiscard]] ExitCode exit_code() const noexcept override { return ExitCode::check_failed; }
};

}  // namespace thaw
