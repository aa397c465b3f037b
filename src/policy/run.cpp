#include "thaw/policy/run.h"

#include <ATen/core/grad_mode.h>

#include <map>
#include <string>

#include "thaw/core/error.h"

namespace thaw {
namespace {

void check_range(std::size_t size, std::size_t from, std::size_t to) {
  if (from <= to && to <= size) return;
  throw UsageError(Problem{.where = "run_stages",
                           .expected = "from <= to <= " + std::to_string(size),
                           .found = "[" + std::to_string(from) + ", " + std::to_string(to) + ")"});
}

/// Key -> the last stage that reads it.
std::map<std::string, std::size_t> last_readers(std::span<const Stage> line) {
  std::map<std::string, std::size_t> readers;
  for (std::size_t i = 0; i < line.size(); ++i) {
    for (const std::string& key : line[i].info.reads) readers[key] = i;
  }
  return readers;
}

}  // namespace

void run_stages(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state) {
  check_range(line.size(), from, to);
  for (const Stage& stage : line.subspan(from, to - from)) stage.run(state);
}

void run_frozen_stages(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state) {
  const at::NoGradGuard no_grad;
  run_stages_once(line, from, to, state);
}

void run_stages_once(std::span<const Stage> line, std::size_t from, std::size_t to, PrefixState& state) {
  check_range(line.size(), from, to);
  const std::map<std::string, std::size_t> readers = last_readers(line);
  for (std::size_t i = from; i < to; ++i) {
    line[i].run(state);
    for (const std::string& key : line[i].info.reads) {
      if (readers.at(key) == i) state.erase(key);
    }
  }
}

}  // namespace thaw
