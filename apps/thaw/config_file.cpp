#include "config_file.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw::cli {
namespace {

/// Where the value of `flag` stands in the arguments ("--flag V" or "--flag=V"); nullopt when it is not given.
struct Place {
  std::size_t first = 0;  // index of the flag
  std::size_t words = 1;  // 1 or 2
  std::string value;
};

std::optional<Place> find_flag(const std::vector<std::string>& arguments, const std::string& flag) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].starts_with(flag + "=")) return Place{i, 1, arguments[i].substr(flag.size() + 1)};
    if (arguments[i] != flag) continue;
    if (i + 1 == arguments.size()) throw UsageError(Problem{.where = flag, .expected = "a value behind it"});
    return Place{i, 2, arguments[i + 1]};
  }
  return std::nullopt;
}

bool given(const std::vector<std::string>& arguments, const std::string& flag) {
  return std::any_of(arguments.begin(), arguments.end(),
                     [&flag](const std::string& word) { return word == flag || word.starts_with(flag + "="); });
}

/// A [freeze] table says the same as the rules it stands for.
std::string freeze_rules(const toml::table& table, const std::string& where) {
  std::ostringstream text;
  text << table;
  std::string joined;
  for (const std::string& rule : LayerFreezePolicy::from_toml(text.str(), where).rules()) {
    joined += (joined.empty() ? "" : ",") + rule;
  }
  return joined;
}

std::string as_text(const toml::node& node, const std::string& where) {
  if (const auto text = node.value<std::string>()) return *text;
  if (node.is_boolean()) return *node.value<bool>() ? "true" : "false";
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
  if (const toml::array* array = node.as_array()) {
    std::string joined;
    for (const toml::node& item : *array) {
      if (!joined.empty()) joined += ',';
      joined += as_text(item, where);
    }
    return joined;
  }
  throw FormatError(Problem{.where = where, .expected = "a string, number, boolean or array of those"});
}

toml::table parse_toml(const std::string& file) {
  const std::string text = read_text(file, std::size_t{1} << 20);
  try {
    return toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    throw FormatError(Problem{.where = fmt::format("{} line {}", file, error.source().begin.line),
                              .expected = "TOML",
                              .found = std::string(error.description())});
  }
}

/// Appends the flags of `file` that are not among the arguments.
void add_flags_of(const std::string& file, std::vector<std::string>& arguments) {
  const toml::table table = parse_toml(file);
  for (const auto& [key, value] : table) {
    const std::string where = file + ", key " + std::string(key.str());
    std::string flag = "--" + std::string(key.str());
    std::replace(flag.begin() + 2, flag.end(), '_', '-');
    if (given(arguments, flag)) continue;
    if (value.is_boolean()) {
      if (*value.value<bool>()) arguments.push_back(flag);
    } else if (flag == "--freeze" && value.is_table()) {
      arguments.push_back(flag + "=" + freeze_rules(*value.as_table(), where));
    } else {
      arguments.push_back(flag + "=" + as_text(value, where));
    }
  }
}

}  // namespace

std::vector<std::string> with_config_file(std::vector<std::string> arguments) {
  if (const auto place = find_flag(arguments, "--config-file")) {
    const auto first = arguments.begin() + static_cast<std::ptrdiff_t>(place->first);
    arguments.erase(first, first + static_cast<std::ptrdiff_t>(place->words));
    add_flags_of(place->value, arguments);
  }
  if (const auto place = find_flag(arguments, "--resume")) {
    if (!given(arguments, "--output")) arguments.push_back("--output=" + place->value);
    add_flags_of(place->value + "/config.toml", arguments);
  }
  return arguments;
}

}  // namespace thaw::cli
