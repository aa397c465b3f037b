#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <arrow/type_traits.h>
#include <arrow/visit_array_inline.h>
#include <fmt/format.h>

#include <type_traits>
#include <utility>

#include "arrow_values_impl.h"
#include "thaw/core/error.h"

namespace thaw::lerobot {
namespace {

template <class To, class From>
bool fits(From value) {
  constexpr bool kIntegers = std::is_integral_v<To> && std::is_integral_v<From>;
  if constexpr (kIntegers && !std::is_same_v<From, bool>) {
    return std::in_range<To>(value);
  } else {
    return true;
  }
}

template <class To, class Array>
at::Tensor convert(const Array& array, at::ScalarType dtype, const Place& place) {
  at::Tensor out = at::empty({array.length()}, dtype);
  To* values = out.template mutable_data_ptr<To>();
  for (std::int64_t i = 0; i < array.length(); ++i) {
    const auto value = array.Value(i);
    if (!fits<To>(value)) {
      throw FormatError(Problem{.where = place.at(i),
                                .expected = fmt::format("a value that fits {}", c10::toString(dtype)),
                                .found = fmt::format("{}", value)});
    }
    values[i] = static_cast<To>(value);  // NOLINT(bugprone-signed-char-misuse): an int8 is a number here
  }
  return out;
}

at::Tensor convert_halves(const arrow::HalfFloatArray& array, at::ScalarType dtype) {
  const auto* bits = reinterpret_cast<const at::Half*>(array.raw_values());
  return at::from_blob(const_cast<at::Half*>(bits), {array.length()}, at::kHalf).to(dtype, false, true);  // NOLINT
}

/// Numbers of one type as `dtype`. An undefined tensor when the one cannot become the other.
template <class Array>
at::Tensor convert_numbers(const Array& array, at::ScalarType dtype, const Place& place) {
  constexpr bool kIntegers = std::is_integral_v<typename Array::value_type>;
  if (dtype == at::kFloat) return convert<float>(array, dtype, place);
  if (dtype == at::kDouble) return convert<double>(array, dtype, place);
  if constexpr (!kIntegers) {
    return dtype == at::kHalf ? convert<float>(array, at::kFloat, place).to(at::kHalf) : at::Tensor();
  } else {
    switch (dtype) {
      case at::kByte:
        return convert<std::uint8_t>(array, dtype, place);
      case at::kChar:
        return convert<std::int8_t>(array, dtype, place);
      case at::kShort:
        return convert<std::int16_t>(array, dtype, place);
      case at::kInt:
        return convert<std::int32_t>(array, dtype, place);
      case at::kLong:
        return convert<std::int64_t>(array, dtype, place);
      default:
        return {};
    }
  }
}

// NOLINTBEGIN(readability-identifier-naming): Arrow calls them Visit
/// Reads an array whatever its type, as arrow::VisitArrayInline finds it.
struct NumberReader {
  at::ScalarType dtype;
  const Place& place;
  at::Tensor values;  ///< undefined: no numbers, or none that may become `dtype`

  template <class Type>
  requires arrow::is_number_type<Type>::value arrow::Status Visit(const arrow::NumericArray<Type>& array) {
    values = convert_numbers(array, dtype, place);
    return arrow::Status::OK();
  }
  arrow::Status Visit(const arrow::HalfFloatArray& array) {
    if (at::isFloatingType(dtype)) values = convert_halves(array, dtype);
    return arrow::Status::OK();
  }
  arrow::Status Visit(const arrow::BooleanArray& array) {
    if (dtype == at::kBool) values = convert<bool>(array, dtype, place);
    return arrow::Status::OK();
  }
  arrow::Status Visit(const arrow::Array& /*other*/) { return arrow::Status::OK(); }
};
// NOLINTEND(readability-identifier-naming)

template <class Array>
void append_texts(const Array& array, std::vector<std::string>& texts) {
  for (std::int64_t i = 0; i < array.length(); ++i) texts.emplace_back(array.GetView(i));
}

}  // namespace

at::Tensor to_tensor(const arrow::Array& array, at::ScalarType dtype, const Place& place) {
  NumberReader reader{.dtype = dtype, .place = place, .values = {}};
  const bool known = arrow::VisitArrayInline(array, &reader).ok();
  if (!known || !reader.values.defined()) refuse_type(array, place, c10::toString(dtype));
  return reader.values;
}

void append_texts(const arrow::Array& array, const Place& place, std::vector<std::string>& texts) {
  check_no_nulls(array, place);
  if (array.type_id() == arrow::Type::STRING) {
    append_texts(static_cast<const arrow::StringArray&>(array), texts);
  } else if (array.type_id() == arrow::Type::LARGE_STRING) {
    append_texts(static_cast<const arrow::LargeStringArray&>(array), texts);
  } else {
    refuse_type(array, place, "texts");
  }
}

}  // namespace thaw::lerobot
