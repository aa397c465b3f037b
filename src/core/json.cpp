#include "thaw/core/json.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <unordered_set>
#include <utility>

#include "thaw/core/error.h"
#include "thaw/core/files.h"

namespace thaw {
namespace {

constexpr std::int64_t kLargestExactInteger = std::int64_t{1} << 53;

// The parser's own message starts with "[json.exception.parse_error.101] ".
std::string without_tag(std::string_view message) {
  const auto end = message.find("] ");
  return std::string(message.starts_with('[') && end != std::string_view::npos ? message.substr(end + 2) : message);
}

// Python's json module writes three words that are no JSON. The parser stops at their first letter, `position` bytes
// in.
std::optional<std::string_view> python_literal_before(std::string_view text, std::size_t position) {
  for (const std::string_view word : {"NaN", "-Infinity", "Infinity"}) {
    const std::size_t read = word.starts_with('-') ? 2 : 1;
    if (position >= read && position <= text.size() && text.substr(position - read).starts_with(word)) return word;
  }
  return std::nullopt;
}

/// Builds the document and refuses what nlohmann would accept: duplicate keys and deep nesting.
class DocumentBuilder final : public nlohmann::json_sax<Json> {
 public:
  DocumentBuilder(std::string_view text, const std::string& where, int max_depth)
      : text_(text), where_(where), max_depth_(max_depth) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) fail("a finite number", text, "Numbers must fit a float64.");
    return add(value);
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t& /*value*/) override { fail("text", "binary data", ""); }

  bool start_object(std::size_t /*elements*/) override { return open(Json::object()); }
  bool start_array(std::size_t /*elements*/) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    level.key = std::move(name);
    if (!level.keys.insert(level.key).second) fail("unique keys", fmt::format("'{}' twice", level.key), "");
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/, const Json::exception& error) override {
    if (const auto literal = python_literal_before(text_, position)) {
      fail("a finite number", std::string(*literal),
           "JSON has no such literal: it was written by a tool that does not check (Python's json.dump). Recompute the "
           "value or write null.");
    }
    throw FormatError(Problem{.where = location(), .expected = "JSON", .found = without_tag(error.what())});
  }

 private:
  struct Level {
    Json* value = nullptr;
    std::string key;                         // of the member being read
    std::unordered_set<std::string> keys{};  // ordered_json finds a key in linear time only
  };

  // Where in the document, as a JSON pointer.
  [[nodiscard]] std::string location() const {
    std::string pointer;
    for (const Level& level : levels_) {
      pointer += '/';
      pointer += level.value->is_array() ? std::to_string(level.value->size()) : level.key;
    }
    return pointer.empty() ? where_ : where_ + ", at " + pointer;
  }

  [[noreturn]] void fail(std::string expected, std::string found, std::string fix) const {
    throw FormatError(Problem{
        .where = location(), .expected = std::move(expected), .found = std::move(found), .fix = std::move(fix)});
  }

  // Containers grow only while none of their children is open, so pointers to open containers stay valid.
  Json* place(Json&& value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.value->is_array()) {
      auto& array = level.value->get_ref<Json::array_t&>();
      return &array.emplace_back(std::move(value));
    }
    // ordered_map::emplace would search all keys again.
    auto& members = level.value->get_ref<Json::object_t&>();
    return &members.Json::object_t::Container::emplace_back(level.key, std::move(value)).second;
  }

  bool add(Json value) {
    place(std::move(value));
    return true;
  }

  bool open(Json&& container) {
    if (static_cast<int>(levels_.size()) >= max_depth_) {
      fail(fmt::format("at most {} levels of nesting", max_depth_), "more", "");
    }
    levels_.push_back(Level{.value = place(std::move(container)), .key = {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& where_;
  int max_depth_;
  Json root_;
  std::vector<Level> levels_;
};

void check_size(std::uint64_t bytes, const std::string& where, const JsonLimits& limits) {
  if (bytes <= limits.max_bytes) return;
  throw FormatError(Problem{.where = where,
                            .expected = fmt::format("at most {} bytes of JSON", limits.max_bytes),
                            .found = fmt::format("{} bytes", bytes)});
}

// nlohmann takes a zero byte for the end of the text and skips a byte order mark.
void check_text(std::string_view text, const std::string& where) {
  if (const auto zero = text.find('\0'); zero != std::string_view::npos) {
    throw FormatError(
        Problem{.where = where, .expected = "JSON text", .found = fmt::format("a zero byte at offset {}", zero)});
  }
  if (text.starts_with("\xef\xbb\xbf")) {
    throw FormatError(Problem{.where = where,
                              .expected = "JSON text",
                              .found = "a byte order mark",
                              .fix = "Save the file as UTF-8 without a byte order mark."});
  }
}

// ---- typed access ----

[[noreturn]] void fail_type(const std::string& where, std::string_view key, std::string expected, std::string found) {
  throw FormatError(Problem{
      .where = fmt::format("{}, field '{}'", where, key), .expected = std::move(expected), .found = std::move(found)});
}

std::string shown(const Json& value) {
  if (value.is_structured()) return fmt::format("{} of {}", value.type_name(), value.size());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  constexpr std::size_t kMost = 80;
  if (text.size() > kMost) text = text.substr(0, kMost) + "…";
  return fmt::format("{} {}", value.type_name(), text);
}

template <class T>
struct Taken;

template <>
struct Taken<bool> {
  static constexpr const char* kName = "true or false";
  static std::optional<bool> from(const Json& value) {
    if (!value.is_boolean()) return std::nullopt;
    return value.get<bool>();
  }
};

template <>
struct Taken<std::int64_t> {
  static constexpr const char* kName = "an integer of at most 2^53 in size";
  static std::optional<std::int64_t> from(const Json& value) {
    if (value.is_number_unsigned()) {
      const auto number = value.get<std::uint64_t>();
      if (number > static_cast<std::uint64_t>(kLargestExactInteger)) return std::nullopt;
      return static_cast<std::int64_t>(number);
    }
    if (value.is_number_integer()) {
      const auto number = value.get<std::int64_t>();
      if (number > kLargestExactInteger || number < -kLargestExactInteger) return std::nullopt;
      return number;
    }
    if (!value.is_number_float()) return std::nullopt;
    const double number = value.get<double>();
    const bool whole = std::trunc(number) == number && std::abs(number) <= static_cast<double>(kLargestExactInteger);
    if (!whole) return std::nullopt;
    return static_cast<std::int64_t>(number);
  }
};

template <>
struct Taken<double> {
  static constexpr const char* kName = "a finite number";
  static std::optional<double> from(const Json& value) {
    if (!value.is_number()) return std::nullopt;
    const double number = value.get<double>();
    if (!std::isfinite(number)) return std::nullopt;
    return number;
  }
};

template <>
struct Taken<std::string> {
  static constexpr const char* kName = "a string";
  static std::optional<std::string> from(const Json& value) {
    if (!value.is_string()) return std::nullopt;
    return value.get<std::string>();
  }
};

template <>
struct Taken<Json> {
  static constexpr const char* kName = "a value";
  static std::optional<Json> from(const Json& value) { return value; }
};

template <class T>
T take(const Json& value, std::string_view key, const std::string& where) {
  auto taken = Taken<T>::from(value);
  if (!taken) fail_type(where, key, Taken<T>::kName, shown(value));
  return *std::move(taken);
}

template <class T>
struct Reader {
  static T read(const Json& value, std::string_view key, const std::string& where) {
    return take<T>(value, key, where);
  }
};

template <class T>
struct Reader<std::vector<T>> {
  static std::vector<T> read(const Json& value, std::string_view key, const std::string& where) {
    if (!value.is_array()) fail_type(where, key, "a list", shown(value));
    std::vector<T> list;
    list.reserve(value.size());
    for (const Json& element : value) {
      list.push_back(take<T>(element, fmt::format("{}[{}]", key, list.size()), where));
    }
    return list;
  }
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where, JsonLimits limits) {
  check_size(text.size(), where, limits);
  check_text(text, where);
  DocumentBuilder builder(text, where, limits.max_depth);
  Json::sax_parse(text, &builder);
  return builder.take();
}

Json read_json(const std::filesystem::path& path, JsonLimits limits) {
  const InputFile file(path);
  check_size(file.size(), path.string(), limits);
  std::string text(file.size(), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return parse_json(text, path.string(), limits);
}

std::vector<Json> read_json_lines(const std::filesystem::path& path, JsonLimits limits) {
  constexpr std::uint64_t kBlock = std::uint64_t{1} << 20;
  const InputFile file(path);
  std::vector<Json> documents;
  std::string line;
  std::size_t number = 0;
  const auto take_line = [&] {
    const std::string where = fmt::format("{}, line {}", path.string(), ++number);
    if (line.find_first_not_of(" \t\r") != std::string::npos) documents.push_back(parse_json(line, where, limits));
    line.clear();
  };

  std::string block;
  for (std::uint64_t offset = 0; offset < file.size(); offset += block.size()) {
    block.resize(std::min(kBlock, file.size() - offset));
    file.read_at(offset, std::as_writable_bytes(std::span(block)));
    std::string_view rest = block;
    for (auto end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
      line += rest.substr(0, end);
      take_line();
      rest.remove_prefix(end + 1);
    }
    line += rest;
    check_size(line.size(), fmt::format("{}, line {}", path.string(), number + 1), limits);
  }
  if (!line.empty()) take_line();
  return documents;
}

template <class T>
T json_field(const Json& object, std::string_view key, const std::string& where) {
  if (!object.is_object()) {
    throw FormatError(
        Problem{.where = where, .expected = fmt::format("an object with the field '{}'", key), .found = shown(object)});
  }
  const auto found = object.find(std::string(key));
  if (found == object.end()) {
    throw FormatError(Problem{.where = where, .expected = fmt::format("the field '{}'", key), .found = "none"});
  }
  return Reader<T>::read(*found, key, where);
}

template bool json_field<bool>(const Json&, std::string_view, const std::string&);
template std::int64_t json_field<std::int64_t>(const Json&, std::string_view, const std::string&);
template double json_field<double>(const Json&, std::string_view, const std::string&);
template std::string json_field<std::string>(const Json&, std::string_view, const std::string&);
template Json json_field<Json>(const Json&, std::string_view, const std::string&);
template std::vector<bool> json_field<std::vector<bool>>(const Json&, std::string_view, const std::string&);
template std::vector<std::int64_t> json_field<std::vector<std::int64_t>>(const Json&, std::string_view,
                                                                         const std::string&);
template std::vector<double> json_field<std::vector<double>>(const Json&, std::string_view, const std::string&);
template std::vector<std::string> json_field<std::vector<std::string>>(const Json&, std::string_view,
                                                                       const std::string&);
template std::vector<Json> json_field<std::vector<Json>>(const Json&, std::string_view, const std::string&);

}  // namespace thaw
