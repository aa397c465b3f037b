/// What an Arrow array must be to be a column of info.json's: no nulls, lists of the declared lengths.
#pragma once

#include <arrow/array.h>

#include <cstdint>
#include <memory>
#include <string>

#include "parquet_impl.h"

namespace thaw::lerobot {

/// Where a value of a column chunk lies, for messages.
struct Place {
  std::string label;
  std::string column;
  std::int64_t first_row = 0;
  std::int64_t items_per_row = 1;

  [[nodiscard]] std::string at(std::int64_t item) const;
};

/// @throws FormatError naming the first row that has none
void check_no_nulls(const arrow::Array& array, const Place& place);

/// @throws FormatError naming column and type
[[noreturn]] void refuse_type(const arrow::Array& array, const Place& place, const std::string& expected);

/// The numbers of a column of (nested) lists, each level checked against the declared shape. A column of shape {1} may
/// hold plain numbers. @throws FormatError
[[nodiscard]] std::shared_ptr<arrow::Array> leaf_values(std::shared_ptr<arrow::Array> array, const ColumnSpec& column,
                                                        Place place);

}  // namespace thaw::lerobot
