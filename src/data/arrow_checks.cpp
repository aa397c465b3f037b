#include <arrow/extension_type.h>
#include <arrow/type.h>
#include <fmt/format.h>

#include "arrow_checks_impl.h"
#include "thaw/core/error.h"

namespace thaw::lerobot {
namespace {

/// The child values of a list array of which every list must hold `length` items.
template <class ListArray>
std::shared_ptr<arrow::Array> fixed_items(const ListArray& lists, std::int64_t length, const Place& place) {
  for (std::int64_t i = 0; i < lists.length(); ++i) {
    if (lists.value_length(i) == length) continue;
    throw FormatError(Problem{.where = place.at(i),
                              .expected = fmt::format("a list of {} values (info.json)", length),
                              .found = std::to_string(lists.value_length(i))});
  }
  const std::int64_t first = lists.length() == 0 ? 0 : lists.value_offset(0);
  return lists.values()->Slice(first, lists.length() * length);
}

std::shared_ptr<arrow::Array> without_extension(std::shared_ptr<arrow::Array> array) {
  while (array->type_id() == arrow::Type::EXTENSION) {
    array = static_cast<const arrow::ExtensionArray&>(*array).storage();
  }
  return array;
}

/// nullptr when `array` is no list.
std::shared_ptr<arrow::Array> list_items(const arrow::Array& array, std::int64_t length, const Place& place) {
  switch (array.type_id()) {
    case arrow::Type::LIST:
      return fixed_items(static_cast<const arrow::ListArray&>(array), length, place);
    case arrow::Type::LARGE_LIST:
      return fixed_items(static_cast<const arrow::LargeListArray&>(array), length, place);
    case arrow::Type::FIXED_SIZE_LIST:
      return fixed_items(static_cast<const arrow::FixedSizeListArray&>(array), length, place);
    default:
      return nullptr;
  }
}

}  // namespace

std::string Place::at(std::int64_t item) const {
  return fmt::format("{} column '{}' row {}", label, column, first_row + item / items_per_row);
}

void check_no_nulls(const arrow::Array& array, const Place& place) {
  if (array.null_count() == 0) return;
  std::int64_t item = 0;
  while (!array.IsNull(item)) ++item;
  throw FormatError(Problem{.where = place.at(item), .expected = "a value", .found = "null"});
}

void refuse_type(const arrow::Array& array, const Place& place, const std::string& expected) {
  throw FormatError(Problem{.where = fmt::format("{} column '{}'", place.label, place.column),
                            .expected = expected,
                            .found = array.type()->ToString()});
}

std::shared_ptr<arrow::Array> leaf_values(std::shared_ptr<arrow::Array> array, const ColumnSpec& column, Place place) {
  const bool scalar = column.shape.size() == 1 && column.shape[0] == 1;
  for (const std::int64_t extent : column.shape) {
    array = without_extension(std::move(array));
    check_no_nulls(*array, place);
    std::shared_ptr<arrow::Array> items = list_items(*array, extent, place);
    if (items == nullptr && scalar) return array;
    if (items == nullptr) refuse_type(*array, place, fmt::format("lists of shape [{}]", fmt::join(column.shape, ", ")));
    place.items_per_row *= extent;
    array = std::move(items);
  }
  array = without_extension(std::move(array));
  check_no_nulls(*array, place);
  return array;
}

}  // namespace thaw::lerobot
