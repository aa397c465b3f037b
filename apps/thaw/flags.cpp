#include "flags.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "thaw/core/error.h"
#include "thaw/core/files.h"
#include "thaw/core/log.h"
#include "thaw/freeze/adapter_rules.h"
#include "thaw/train/peft.h"

namespace thaw::cli {
namespace {

std::int64_t parse_number(const std::string& text, const std::string& flag) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < 0) {
    throw UsageError(
        Problem{.where = flag, .expected = "numbers and ranges, as in 0,3,5-7", .found = "'" + text + "'"});
  }
  return number;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_toml_number(const std::string& text) {
  try {
    const toml::table table = toml::parse("value = " + text);
    return table["value"].is_number();
  } catch (const toml::parse_error&) {
    return false;
  }
}

/// A bare number, or a quoted and escaped string.
std::string toml_value(const std::string& text) {
  if (is_toml_number(text)) return text;
  std::ostringstream out;
  out << toml::node_view<const toml::node>(toml::value<std::string>(text));
  return out.str();
}

/// One value of a run's config.toml; empty when it is not there.
std::string run_setting(const std::filesystem::path& run, const std::string& key) {
  const std::string file = (run / "config.toml").string();
  if (!std::filesystem::exists(file)) return {};
  try {
    const toml::table table = toml::parse(read_text(file, std::size_t{1} << 20), file);
    return table[key].value_or(std::string());
  } catch (const toml::parse_error& error) {
    throw FormatError(Problem{.where = fmt::format("{} line {}", file, error.source().begin.line),
                              .expected = "TOML",
                              .found = std::string(error.description())});
  }
}

}  // namespace

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    const std::size_t first = part.find_first_not_of(' ');
    if (first != std::string::npos) parts.push_back(part.substr(first, part.find_last_not_of(' ') - first + 1));
  }
  return parts;
}

CLI::App* add_subcommand(CLI::App& app, Outcome& outcome, const std::string& name, const std::string& description,
                         const std::string& examples) {
  CLI::App* command = app.add_subcommand(name, description);
  command->option_defaults()->always_capture_default();
  command->add_flag_callback(
      "--json",
      [&outcome] {
        outcome.json = true;
        set_quiet(true);
      },
      "one JSON document on stdout");
  command->add_option_function<std::string>(
      "--config-file", [](const std::string&) {},
      "TOML file with flags of this command; flags on the command line win");
  command->footer("Examples:\n" + examples);
  return command;
}

void FreezeFlags::add_to(CLI::App& command) {
  command.add_option(
      "--freeze", rules,
      "rules, later ones win: STACK=N (the last N blocks train), STACK=first:N|all|none|[0,3-5], *=N for every\n"
      "stack; train:PATTERN and freeze:PATTERN with a glob, a /regex/, or @norms @biases @embeddings @projectors.\n"
      "They are applied on top of what the policy's config.json says");
  command.add_option("--freeze-file", file, "the same rules in a TOML file");
}

LayerFreezePolicy FreezeFlags::policy() const {
  std::string text;
  if (!file.empty()) {
    for (const std::string& rule : LayerFreezePolicy::from_toml(read_text(file), file.string()).rules()) {
      text += (text.empty() ? "" : ",") + rule;
    }
  }
  if (!rules.empty()) text += (text.empty() ? "" : ",") + rules;
  return text.empty() ? LayerFreezePolicy{} : LayerFreezePolicy::parse(text);
}

void AdapterFlags::add_to(CLI::App& command) {
  command.add_option(
      "--lora", rules,
      "low-rank adapters on linear layers: blocks or layers as in --freeze with rank=R, alpha=A, "
      "type=lora|rslora|dora\n"
      "and targets=q_proj+v_proj, as in 'language=all,rank=16,alpha=32'; several after a ';'. All else is frozen but\n"
      "what --freeze names, which trains itself and gets none");
}

std::vector<Adapter> AdapterFlags::adapters(const ModelLayout& layout, const LayerFreezePolicy& full_rank) const {
  return rules.empty() ? std::vector<Adapter>{} : choose_adapters(layout, parse_adapter_rules(rules), full_rank);
}

LayerFreezePolicy AdapterFlags::freeze(const LayerFreezePolicy& full_rank) const {
  return rules.empty() ? full_rank : freeze_beside_adapters(full_rank);
}

std::vector<std::int64_t> parse_numbers(const std::string& text, const std::string& flag) {
  constexpr std::int64_t kMostInARange = 10'000'000;
  std::vector<std::int64_t> numbers;
  for (const std::string& part : split(text, ',')) {
    const std::size_t dash = part.find('-');
    const std::int64_t first = parse_number(part.substr(0, dash), flag);
    const std::int64_t last = dash == std::string::npos ? first : parse_number(part.substr(dash + 1), flag);
    if (last < first || last - first > kMostInARange) {
      throw UsageError(Problem{.where = flag, .expected = "a range that rises", .found = "'" + part + "'"});
    }
    for (std::int64_t number = first; number <= last; ++number) numbers.push_back(number);
  }
  return numbers;
}

std::map<std::string, std::string> parse_pairs(const std::string& text, const std::string& flag) {
  std::map<std::string, std::string> pairs;
  for (const std::string& part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == part.size()) {
      throw UsageError(Problem{.where = flag, .expected = "pairs, as in a=b,c=d", .found = "'" + part + "'"});
    }
    pairs[part.substr(0, equals)] = part.substr(equals + 1);
  }
  return pairs;
}

std::int64_t parse_byte_size(const std::string& text, const std::string& flag) {
  static const std::map<std::string, double> kUnits{{"", 1.0},  {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},
                                                    {"B", 1.0}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  constexpr double kMost = 0x1p60;
  double number = 0;
  const char* end_of_text = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), end_of_text, number);
  const auto unit = kUnits.find(std::string(end, end_of_text));
  const bool is_size = error == std::errc{} && unit != kUnits.end() && number >= 0 && number < kMost;
  if (is_size && number * unit->second < kMost) return static_cast<std::int64_t>(number * unit->second);
  throw UsageError(
      Problem{.where = flag, .expected = "a size such as 24GB, 24GiB or 800MB", .found = "'" + text + "'"});
}

std::string grouped(std::int64_t number) {
  std::string digits = std::to_string(number);
  for (auto place = static_cast<std::ptrdiff_t>(digits.size()) - 3; place > (number < 0 ? 1 : 0); place -= 3) {
    digits.insert(static_cast<std::size_t>(place), ",");
  }
  return digits;
}

std::string flags_as_toml(const CLI::App& command, const std::vector<std::string>& absolute,
                          const std::vector<std::string>& leave_out) {
  std::string text;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    if (name == "help" || contains(leave_out, name)) continue;
    const bool is_switch = option->get_expected_min() == 0;
    if (is_switch) {
      text += fmt::format("{} = {}\n", name, option->count() > 0);
      continue;
    }
    std::string value = option->count() > 0 ? option->as<std::string>() : option->get_default_str();
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
    if (value.empty()) continue;
    if (contains(absolute, name)) value = std::filesystem::absolute(value).lexically_normal().string();
    text += fmt::format("{} = {}\n", name, toml_value(value));
  }
  return text;
}

std::string base_of_run(const std::filesystem::path& run, const std::string& given) {
  if (!given.empty()) return given;
  const std::string setting = run_setting(run, "policy");
  if (!setting.empty()) return setting;
  if (is_peft_adapter(run) && std::filesystem::is_directory(peft_base(run))) return peft_base(run);
  throw UsageError(Problem{.where = run.string(),
                           .expected = "a run folder whose config.toml names its base",
                           .fix = "Name the base checkpoint with --policy DIR."});
}

std::filesystem::path head_of_run(const std::filesystem::path& run) {
  if (std::filesystem::is_regular_file(run)) return run;
  for (const char* place : {"heads/last/head.safetensors", "head.safetensors"}) {
    if (std::filesystem::exists(run / place)) return run / place;
  }
  if (is_peft_adapter(run)) return run;
  throw IoError(Problem{.where = run.string(),
                        .expected = "a head (heads/last/head.safetensors) or an adapter of PEFT (adapter_config.json)",
                        .fix = "Give a run folder that has saved once, or a head.safetensors."});
}

}  // namespace thaw::cli
