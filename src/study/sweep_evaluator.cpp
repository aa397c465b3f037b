#include "thaw/study/sweep_evaluator.h"

#include <fmt/format.h>

#include "sweep_process_impl.h"
#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr std::size_t kShown = 200;  // of what a program printed that is not what was asked for

std::string beginning_of(std::string text) {
  if (text.empty()) return "nothing";
  if (text.size() > kShown) text = text.substr(0, kShown) + "…";
  return fmt::format("'{}'", text);
}

/// What is wrong, or empty.
std::string note(const ProcessEnd& end, SweepResult& result) {
  if (!end.ok()) return end.text();
  try {
    Json said = parse_json(end.out, "evaluator");
    if (!said.is_object()) return fmt::format("printed JSON that is no object: {}", beginning_of(end.out));
    result.evaluator = std::move(said);
    return {};
  } catch (const FormatError&) {
    return fmt::format("printed no JSON object but {}", beginning_of(end.out));
  }
}

}  // namespace

bool evaluate_point(const SweepEvaluator& evaluator, const std::filesystem::path& head_folder,
                    const std::function<bool()>& stop, SweepResult& result) {
  ProcessOptions options{.command = {"/bin/sh", "-c", evaluator.command},
                         .environment = evaluator.environment,
                         .seconds = evaluator.seconds,
                         .stop = stop};
  if (evaluator.environment_of) {
    for (auto& [name, value] : evaluator.environment_of(result.point)) options.environment[name] = value;
  }
  options.environment["THAW_HEAD"] = std::filesystem::absolute(head_folder / "head.safetensors").string();
  options.environment["THAW_POINT_ID"] = result.point.id;
  options.environment["THAW_POINT"] = result.to_json().dump();
  const ProcessEnd end = run_process(options);
  if (end.stopped) return false;
  const std::string fault = note(end, result);
  if (!fault.empty()) result.error = fmt::format("the evaluator {}", fault);
  return true;
}

}  // namespace thaw
