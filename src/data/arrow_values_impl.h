/// The values of an Arrow array as tensors and texts.
#pragma once

#include <ATen/core/Tensor.h>
#include <arrow/array.h>

#include <string>
#include <vector>

#include "arrow_checks_impl.h"

namespace thaw::lerobot {

/// (length). Integers become integers and reals where every value fits, reals become reals, booleans stay booleans.
/// @throws FormatError for other types, and naming the first value that does not fit
[[nodiscard]] at::Tensor to_tensor(const arrow::Array& array, at::ScalarType dtype, const Place& place);

/// @throws FormatError for a null and for what is no text
void append_texts(const arrow::Array& array, const Place& place, std::vector<std::string>& texts);

}  // namespace thaw::lerobot
