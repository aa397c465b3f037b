/// Strict JSON for files nobody vouches for: bounded size and depth, no duplicate keys, finite numbers, valid UTF-8.
/// Key order is kept: in a LeRobot config.json the order of `input_features` is the camera order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace thaw {

using Json = nlohmann::ordered_json;

struct JsonLimits {
  std::size_t max_bytes = std::size_t{16} << 20;
  int max_depth = 32;
};

/// Parses one JSON document. `where` names the source in errors.
/// @throws FormatError on anything but one well-formed document within the limits.
[[nodiscard]] Json parse_json(std::string_view text, const std::string& where, JsonLimits limits = {});

/// Reads and parses a regular file. @throws IoError, FormatError
[[nodiscard]] Json read_json(const std::filesystem::path& path, JsonLimits limits = {});

/// Reads a .jsonl file: one document a line, empty lines skipped. @throws IoError, FormatError (with the line number)
[[nodiscard]] std::vector<Json> read_json_lines(const std::filesystem::path& path, JsonLimits limits = {});

/// A required member of `object`. T: bool, std::int64_t, double, std::string, std::vector of those, or Json.
/// An integer is taken for a double; a double with a fraction, or a count beyond 2^53, is not taken for an integer.
/// @throws FormatError naming `where`, the key, and the type found
template <class T>
[[nodiscard]] T json_field(const Json& object, std::string_view key, const std::string& where);

/// The same, or `fallback` where the member is absent or null.
template <class T>
[[nodiscard]] T json_field_or(const Json& object, std::string_view key, T fallback, const std::string& where) {
  const auto found = object.is_object() ? object.find(std::string(key)) : object.end();
  if (found == object.end() || found->is_null()) return fallback;
  return json_field<T>(object, key, where);
}

}  // namespace thaw
