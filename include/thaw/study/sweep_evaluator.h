/// Figures that only the user can measure: a program that is given each point's head and prints one JSON object.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "thaw/study/sweep_results.h"

namespace thaw {

struct SweepEvaluator {
  std::string command;                             ///< for the shell; empty: none
  double seconds = 3600.0;                         ///< until it is killed
  std::map<std::string, std::string> environment;  ///< beside THAW_HEAD, THAW_POINT_ID and THAW_POINT (its line so far)
  /// What one point has in its place, or beside it; may be empty.
  std::function<std::map<std::string, std::string>(const SweepPoint&)> environment_of;
};

/// Asks the evaluator about `result`, whose head lies in `head_folder`, and notes what it said, or why it said nothing,
/// in `result`. A program that fails, hangs, or prints no JSON object fails this point alone. False: `stop` ended it.
bool evaluate_point(const SweepEvaluator& evaluator, const std::filesystem::path& head_folder,
                    const std::function<bool()>& stop, SweepResult& result);

}  // namespace thaw
