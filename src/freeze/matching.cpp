#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <regex>
#include <unordered_set>

#include "matching_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

[[noreturn]] void no_match(const Rule& rule, const std::string& expected, const std::string& found,
                           const std::string& fix) {
  throw UsageError(
      Problem{.where = fmt::format("freeze rule '{}'", rule.text()), .expected = expected, .found = found, .fix = fix});
}

std::vector<std::string> stack_names(const ModelLayout& layout) {
  std::vector<std::string> names;
  names.reserve(layout.stacks.size());
  for (const BlockStack& stack : layout.stacks) names.push_back(stack.name);
  return names;
}

/// "encoder" and "a.encoder" are parts of "a.encoder.layers"; "code" is none.
bool is_dotted_part(const std::string& part, const std::string& path) {
  return ("." + path + ".").find("." + part + ".") != std::string::npos;
}

using Matcher = std::function<bool(const ParameterInfo&)>;

Matcher pattern_matcher(const std::string& pattern) {
  if (pattern.front() == '@') {
    return [group = pattern.substr(1)](const ParameterInfo& parameter) {
      return std::find(parameter.groups.begin(), parameter.groups.end(), group) != parameter.groups.end();
    };
  }
  if (pattern.front() == '/') {
    return [regex = std::regex(pattern.substr(1, pattern.size() - 2))](const ParameterInfo& parameter) {
      return std::regex_search(parameter.name, regex);
    };
  }
  return [pattern](const ParameterInfo& parameter) { return glob_match(pattern, parameter.name); };
}

/// The pattern without its signs: what the user believes to be part of a name.
std::string likeness(const std::string& pattern) {
  std::string text;
  for (const char letter : pattern) {
    if (std::isalnum(static_cast<unsigned char>(letter)) != 0 || letter == '_' || letter == '.') text += letter;
  }
  const std::size_t begin = text.find_first_not_of('.');
  if (begin == std::string::npos) return pattern;
  return text.substr(begin, text.find_last_not_of('.') - begin + 1);
}

/// Parts of names first: "*state_porj*" is nearer to "state_proj" than to any full name.
std::vector<std::string> suggestions(const ModelLayout& layout) {
  std::vector<std::string> names;
  std::unordered_set<std::string> seen;
  const auto add = [&names, &seen](const std::string& name) {
    if (seen.insert(name).second) names.push_back(name);
  };
  for (const ParameterInfo& parameter : layout.parameters) {
    for (std::size_t begin = 0; begin < parameter.name.size();) {
      const std::size_t end = std::min(parameter.name.find('.', begin), parameter.name.size());
      const std::string part = parameter.name.substr(begin, end - begin);
      if (std::any_of(part.begin(), part.end(), [](unsigned char letter) { return std::isalpha(letter) != 0; })) {
        add(part);
      }
      begin = end + 1;
    }
  }
  for (const ParameterInfo& parameter : layout.parameters) {
    for (const std::string& group : parameter.groups) add("@" + group);
  }
  for (const ParameterInfo& parameter : layout.parameters) add(parameter.name);
  return names;
}

}  // namespace

std::vector<const BlockStack*> matching_stacks(const Rule& rule, const ModelLayout& layout) {
  if (layout.stacks.empty()) {
    no_match(rule, "a model with block stacks", "none in '" + layout.type + "'", "Use train: and freeze: patterns.");
  }
  std::vector<const BlockStack*> parts;
  for (const BlockStack& stack : layout.stacks) {
    if (stack.name == rule.target) return {&stack};
    if (rule.target == "*" || is_dotted_part(rule.target, stack.name)) parts.push_back(&stack);
  }
  if (parts.size() == 1 || rule.target == "*") return parts;
  if (parts.empty()) {
    no_match(rule, "the name of a block stack", fmt::format("'{}'", rule.target),
             suggest(rule.target, stack_names(layout)));
  }
  std::vector<std::string> names;
  names.reserve(parts.size());
  for (const BlockStack* stack : parts) names.push_back(stack->name);
  no_match(rule, "the name of one block stack", fmt::format("'{}', a part of {}", rule.target, fmt::join(names, ", ")),
           "Write the full name.");
}

std::vector<std::size_t> matching_parameters(const Rule& rule, const ModelLayout& layout) {
  const Matcher matches = pattern_matcher(rule.target);
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < layout.parameters.size(); ++i) {
    if (matches(layout.parameters[i])) found.push_back(i);
  }
  if (found.empty()) {
    no_match(rule, "a pattern that matches a parameter",
             fmt::format("none among {} of '{}'", layout.parameters.size(), layout.type),
             suggest(likeness(rule.target), suggestions(layout)));
  }
  return found;
}

}  // namespace thaw
