// The header of a safetensors file, parsed event by event: nothing is built that a check has not passed, and nothing is
// taken that the format does not name.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

#include "thaw/core/error.h"
#include "thaw/tensor/dtype.h"
#include "thaw/tensor/safetensors.h"

namespace thaw {
namespace {

using Sax = nlohmann::json_sax<nlohmann::json>;

/// Where in the header the parser is. The nesting is fixed by the format: { name: { field: [ number ] } }.
enum class Place { start, root, metadata, tensor, shape, offsets, end };

enum class Field { none, dtype, shape, offsets };

struct Draft {
  std::optional<at::ScalarType> dtype;
  std::optional<std::vector<std::int64_t>> shape;
  std::optional<std::vector<std::uint64_t>> offsets;
};

std::string shortened(std::string_view text) {
  constexpr std::size_t kMost = 80;
  return text.size() <= kMost ? std::string(text) : std::string(text.substr(0, kMost)) + "…";
}

/// Bytes of a tensor; nullopt when the product overflows, whatever the order of the dimensions (a zero among them hides
/// nothing: strides are products of the others).
std::optional<std::uint64_t> bytes_of(at::ScalarType dtype, const std::vector<std::int64_t>& shape) {
  auto nonzero = static_cast<std::int64_t>(c10::elementSize(dtype));
  bool empty = false;
  for (const std::int64_t dimension : shape) {
    empty = empty || dimension == 0;
    if (__builtin_mul_overflow(nonzero, std::max<std::int64_t>(dimension, 1), &nonzero)) return std::nullopt;
  }
  return empty ? 0 : static_cast<std::uint64_t>(nonzero);
}

class HeaderParser final : public Sax {
 public:
  HeaderParser(const std::string& where, const SafetensorsLimits& limits) : where_(where), limits_(limits) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { unexpected(std::to_string(value)); }
  bool number_float(number_float_t /*value*/, const string_t& text) override { unexpected(shortened(text)); }
  bool binary(binary_t& /*value*/) override { unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) {
      add_dimension(value);
    } else if (place_ == Place::offsets) {
      add_offset(value);
    } else {
      unexpected(std::to_string(value));
    }
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) {
      header_.metadata[metadata_key_] = std::move(value);
    } else if (place_ == Place::tensor && field_ == Field::dtype) {
      draft_.dtype = safetensors_dtype(value);
      if (!draft_.dtype) fail("a dtype such as F32, BF16 or I64", fmt::format("'{}'", shortened(value)));
    } else {
      unexpected(fmt::format("the string '{}'", shortened(value)));
    }
    return true;
  }

  bool key(string_t& name) override {
    if (place_ == Place::root) return open_member(std::move(name));
    if (place_ == Place::metadata) return open_metadata(std::move(name));
    return open_field(name);
  }

  bool start_object(std::size_t /*elements*/) override {
    if (place_ == Place::start) {
      place_ = Place::root;
    } else if (place_ == Place::root) {
      place_ = in_metadata_ ? Place::metadata : Place::tensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::root ? Place::end : Place::root;
    return true;
  }

  bool start_array(std::size_t /*elements*/) override {
    if (place_ == Place::tensor && field_ == Field::shape) {
      draft_.shape.emplace();
      place_ = Place::shape;
    } else if (place_ == Place::tensor && field_ == Field::offsets) {
      draft_.offsets.emplace();
      place_ = Place::offsets;
    } else {
      unexpected("a list");
    }
    return true;
  }

  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& /*error*/) override {
    throw FormatError(Problem{
        .where = where_,
        .expected = "a header of JSON",
        .found = fmt::format("'{}' at byte {} of it, which does not belong there", shortened(token), position)});
  }

 private:
  [[nodiscard]] std::string location() const {
    if (place_ == Place::start || name_.empty()) return where_;
    return fmt::format("{}, {} '{}'", where_, in_metadata_ ? "metadata" : "tensor",
                       shortened(in_metadata_ ? metadata_key_ : name_));
  }

  [[noreturn]] void fail(std::string expected, std::string found) const {
    throw FormatError(
        Problem{.where = location(), .expected = std::move(expected), .found = std::move(found), .fix = {}});
  }

  [[noreturn]] void unexpected(std::string found) const {
    switch (place_) {
      case Place::shape:
      case Place::offsets:
        fail("unsigned whole numbers in shape and data_offsets", std::move(found));
      case Place::metadata:
        fail("strings in __metadata__", std::move(found));
      case Place::tensor:
        fail("dtype a string, shape and data_offsets lists", std::move(found));
      case Place::root:
        fail("an object", std::move(found));
      default:
        fail("one object", std::move(found));
    }
  }

  bool open_member(std::string name) {
    if (name.size() > limits_.max_name_bytes) {
      fail(fmt::format("names of at most {} bytes", limits_.max_name_bytes), fmt::format("{} bytes", name.size()));
    }
    if (names_.size() >= limits_.max_tensors) fail(fmt::format("at most {} tensors", limits_.max_tensors), "more");
    in_metadata_ = name == "__metadata__";
    name_ = std::move(name);
    if (!names_.insert(name_).second) fail("unique names", fmt::format("'{}' twice", name_));
    draft_ = {};
    field_ = Field::none;
    return true;
  }

  bool open_metadata(std::string key) {
    metadata_key_ = std::move(key);
    if (!header_.metadata.emplace(metadata_key_, "").second) fail("unique keys", "this one twice");
    return true;
  }

  bool open_field(const std::string& name) {
    const auto once = [&](bool seen) {
      if (seen) fail("each field once", fmt::format("'{}' twice", name));
    };
    if (name == "dtype") {
      once(draft_.dtype.has_value());
      field_ = Field::dtype;
    } else if (name == "shape") {
      once(draft_.shape.has_value());
      field_ = Field::shape;
    } else if (name == "data_offsets") {
      once(draft_.offsets.has_value());
      field_ = Field::offsets;
    } else {
      fail("the fields dtype, shape and data_offsets", fmt::format("'{}'", shortened(name)));
    }
    return true;
  }

  void add_dimension(std::uint64_t value) {
    if (draft_.shape->size() >= limits_.max_rank) fail(fmt::format("at most {} dimensions", limits_.max_rank), "more");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail("dimensions below 2^63", std::to_string(value));
    }
    draft_.shape->push_back(static_cast<std::int64_t>(value));
  }

  void add_offset(std::uint64_t value) {
    if (draft_.offsets->size() == 2) fail("two data_offsets", "more");
    draft_.offsets->push_back(value);
  }

  void finish_tensor() {
    if (!draft_.dtype || !draft_.shape || !draft_.offsets) fail("the fields dtype, shape and data_offsets", "not all");
    if (draft_.offsets->size() != 2) fail("two data_offsets", std::to_string(draft_.offsets->size()));
    const std::uint64_t begin = draft_.offsets->front();
    const std::uint64_t end = draft_.offsets->back();
    if (begin > end) fail("data_offsets in rising order", fmt::format("[{}, {}]", begin, end));
    const auto bytes = bytes_of(*draft_.dtype, *draft_.shape);
    const std::string shape = fmt::format("{} [{}]", dtype_name(*draft_.dtype), fmt::join(*draft_.shape, ", "));
    if (!bytes) fail("a size below 2^63 bytes", "overflow of " + shape);
    if (*bytes != end - begin) {
      fail(fmt::format("{} bytes for {}", *bytes, shape), fmt::format("{} between its offsets (size)", end - begin));
    }
    header_.entries.push_back(
        {.name = name_, .dtype = *draft_.dtype, .shape = *std::move(draft_.shape), .begin = begin, .end = end});
  }

  const std::string& where_;
  const SafetensorsLimits& limits_;
  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;  // as unescaped: "a" and "\u0061" are one name
  Place place_ = Place::start;
  bool in_metadata_ = false;
  std::string name_;
  std::string metadata_key_;
  Field field_ = Field::none;
  Draft draft_;
};

// nlohmann takes a zero byte for the end of the text, and skips white space and a byte order mark before it.
void check_text(std::string_view json, const std::string& where) {
  if (!json.starts_with('{')) {
    throw FormatError(Problem{.where = where, .expected = "a header that starts with '{'", .found = "another byte"});
  }
  if (const auto zero = json.find('\0'); zero != std::string_view::npos) {
    throw FormatError(Problem{.where = where,
                              .expected = "white space after the JSON of the header",
                              .found = fmt::format("a zero byte at {}", zero)});
  }
}

void check_coverage(const std::vector<SafetensorsEntry>& sorted, std::uint64_t data_bytes, const std::string& where) {
  std::uint64_t covered = 0;
  for (const SafetensorsEntry& entry : sorted) {
    if (entry.begin != covered) {
      throw FormatError(
          Problem{.where = fmt::format("{}, tensor '{}'", where, shortened(entry.name)),
                  .expected = fmt::format("data from {}", covered),
                  .found = fmt::format("from {} ({})", entry.begin, entry.begin > covered ? "a hole" : "an overlap")});
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    throw FormatError(Problem{
        .where = where,
        .expected = fmt::format("{} bytes of data", covered),
        .found = fmt::format("{} (length)", data_bytes),
        .fix = covered > data_bytes ? "The file is cut off: fetch it again." : "Something was appended to the file."});
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_bytes, const std::string& where,
                                           const SafetensorsLimits& limits) {
  check_text(json, where);
  HeaderParser parser(where, limits);
  nlohmann::json::sax_parse(json, &parser);
  SafetensorsHeader header = parser.take();
  // A tensor without elements shares its offset with the next one.
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  check_coverage(header.entries, data_bytes, where);
  return header;
}

}  // namespace thaw
