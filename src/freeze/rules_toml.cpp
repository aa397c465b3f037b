// Freeze rules written in TOML.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

#include "rule_impl.h"
#include "split_impl.h"
#include "thaw/core/error.h"
#include "thaw/freeze/layer_freeze_policy.h"

namespace thaw {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{1} << 20;

struct Entry {
  std::string key;
  const toml::node* node = nullptr;
};

/// Reads entries in the order of the text: later rules win, and toml++ keeps tables sorted by key.
class TomlRules {
 public:
  explicit TomlRules(const std::string& where) : where_(where) {}

  /// The rules of the table as canonical texts.
  std::vector<std::string> read(const toml::table& table) {
    std::vector<Entry> entries;
    flatten(table, "", entries);
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry& a, const Entry& b) { return a.node->source().begin < b.node->source().begin; });
    for (const Entry& entry : entries) read_entry(entry);
    return std::move(texts_);
  }

 private:
  /// encoder.layers = 2 is a table in a table; a stack's name has dots.
  static void flatten(const toml::table& table, const std::string& prefix, std::vector<Entry>& entries) {
    for (const auto& [key, node] : table) {
      const std::string name = prefix + std::string(key.str());
      if (const toml::table* inner = node.as_table()) {
        flatten(*inner, name + ".", entries);
      } else {
        entries.push_back({name, &node});
      }
    }
  }

  void read_entry(const Entry& entry) {
    const toml::node& node = *entry.node;
    if (entry.key == "rules") {
      for (const std::string& rule : strings(node, "an array of rules")) add(node, rule);
    } else if (entry.key == "train" || entry.key == "freeze") {
      for (const std::string& pattern : strings(node, "an array of patterns")) add(node, entry.key + ":" + pattern);
    } else {
      if (entry.key.find(':') != std::string::npos) fail(node, "a block stack's name for '" + entry.key + "'");
      add(node, entry.key + "=" + stack_value(entry));
    }
  }

  [[nodiscard]] std::string stack_value(const Entry& entry) const {
    const toml::node& node = *entry.node;
    if (const auto* count = node.as_integer()) return std::to_string(count->get());
    if (const auto* word = node.as_string()) return word->get();
    if (!node.is_array()) {
      fail(node, fmt::format("'{}' to be a number, \"all\", \"none\", \"first:N\" or a list of blocks", entry.key));
    }
    std::vector<std::int64_t> blocks;
    for (const toml::node& item : *node.as_array()) {
      if (!item.is_integer()) fail(item, "a list of block numbers");
      blocks.push_back(item.as_integer()->get());
    }
    return fmt::format("[{}]", fmt::join(blocks, ","));
  }

  [[nodiscard]] std::vector<std::string> strings(const toml::node& node, const std::string& what) const {
    const toml::array* array = node.as_array();
    if (array == nullptr) fail(node, what);
    std::vector<std::string> items;
    for (const toml::node& item : *array) {
      if (!item.is_string()) fail(item, what + " in quotes");
      items.push_back(item.as_string()->get());
    }
    return items;
  }

  void add(const toml::node& node, const std::string& text) {
    try {
      const std::vector<Rule> rules = parse_rules(text);
      if (rules.size() != 1) throw UsageError(fmt::format("'{}' is not one rule. {}", text, rule_grammar()));
      texts_.push_back(rules.front().text());
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("{}: {}", place(node), error.what()));
    }
  }

  [[nodiscard]] std::string place(const toml::node& node) const {
    return fmt::format("{}:{}:{}", where_, node.source().begin.line, node.source().begin.column);
  }

  [[noreturn]] void fail(const toml::node& node, const std::string& expected) const {
    std::ostringstream type;
    type << node.type();
    throw UsageError(Problem{.where = place(node),
                             .expected = expected,
                             .found = "a TOML " + type.str(),
                             .fix = "Write [freeze] with stack = 2, \"all\" or [0, 1], train = [patterns], "
                                    "freeze = [patterns]."});
  }

  const std::string& where_;
  std::vector<std::string> texts_;
};

/// The text as a document. A bare array is none: it becomes the value of "rules". (["a"] alone would even pass for a
/// table header with a quoted key.)
std::string as_document(std::string_view text) {
  const std::size_t open = text.find_first_not_of(kSpaces);
  if (open == std::string_view::npos || text[open] != '[') return std::string(text);
  const std::size_t next = text.find_first_not_of(kSpaces, open + 1);
  const bool array =
      next != std::string_view::npos && std::string_view("\"']").find(text[next]) != std::string_view::npos;
  return array ? fmt::format("rules={}", text.substr(open)) : std::string(text);
}

toml::table parse_document(const std::string& text, const std::string& where) {
  try {
    return toml::parse(text, where);
  } catch (const toml::parse_error& error) {
    throw UsageError(
        Problem{.where = fmt::format("{}:{}:{}", where, error.source().begin.line, error.source().begin.column),
                .expected = "TOML",
                .found = std::string(error.description())});
  }
}

}  // namespace

LayerFreezePolicy LayerFreezePolicy::from_toml(std::string_view toml_text, const std::string& where) {
  if (toml_text.size() > kMaxBytes) {
    throw UsageError(Problem{.where = where,
                             .expected = fmt::format("freeze rules of at most {} bytes", kMaxBytes),
                             .found = std::to_string(toml_text.size())});
  }
  const toml::table document = parse_document(as_document(toml_text), where);
  const toml::table* section = document["freeze"].as_table();
  LayerFreezePolicy policy;
  policy.rules_ = TomlRules(where).read(section == nullptr ? document : *section);
  return policy;
}

}  // namespace thaw
