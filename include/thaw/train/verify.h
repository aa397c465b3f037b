/// Proof that a run froze what it said and trained what it said.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "thaw/core/json.h"

namespace torch::nn {
class Module;
}

namespace thaw {

/// One thing that was checked.
struct Check {
  std::string name;                   ///< "frozen tensors equal the base", …
  std::int64_t examined = 0;          ///< tensors, files or modules looked at
  std::vector<std::string> failures;  ///< empty: it holds; else one sentence each, beginning with the tensor's name
};

struct VerifyReport {
  std::filesystem::path run;
  std::int64_t step = 0;
  std::vector<Check> checks;
  [[nodiscard]] bool passed() const;
  [[nodiscard]] std::string text() const;  ///< one line per check, failures below it
  [[nodiscard]] Json to_json() const;
};

/// Checks the newest checkpoint of a run against its base (as loaded, before any head):
/// every file equals its manifest; the base is the one the plan was made on, tensor by tensor; frozen tensors still
/// equal it after the run; the head holds exactly the trainable tensors, each moved, each with a finite gradient that
/// was not all zero (both but for what nobody reads: ParameterInfo::unread); nothing frozen in optimizer, EMA or
/// gradient memory; frozen modules were in eval mode.
/// @throws IoError, FormatError when the run cannot be read
[[nodiscard]] VerifyReport verify_run(const std::filesystem::path& run, const torch::nn::Module& base);

/// The same, but throws. @throws CheckFailed with every failure
void require_verified(const VerifyReport& report);

}  // namespace thaw
