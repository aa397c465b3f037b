#include "thaw/core/error.h"

#include <string_view>

#include "printable_impl.h"

namespace thaw {

std::string describe(const Problem& problem) {
  std::string text = problem.where;
  const auto append = [&text](std::string_view separator, const std::string& part) {
    if (part.empty()) return;
    if (!text.empty()) text += separator;
    text += part;
  };
  if (!problem.expected.empty()) append(": ", "expected " + problem.expected);
  if (!problem.found.empty()) append(problem.expected.empty() ? ": " : ", ", "found " + problem.found);
  if (!text.empty() && text.back() != '.' && !problem.fix.empty()) text += '.';
  append(" ", problem.fix);
  return detail::printable_lines(text);  // tensor names, paths and JSON text come from files
}

}  // namespace thaw
