#include "thaw/tensor/dtype.h"

#include <fmt/format.h>

#include <array>

#include "thaw/core/error.h"

namespace thaw {
namespace {

struct DtypeNames {
  at::ScalarType dtype;
  std::string_view safetensors;
  std::string_view torch;
};

constexpr std::array kNames{
    DtypeNames{at::kDouble, "F64", "float64"},
    DtypeNames{at::kFloat, "F32", "float32"},
    DtypeNames{at::kHalf, "F16", "float16"},
    DtypeNames{at::kBFloat16, "BF16", "bfloat16"},
    DtypeNames{at::kLong, "I64", "int64"},
    DtypeNames{at::kInt, "I32", "int32"},
    DtypeNames{at::kShort, "I16", "int16"},
    DtypeNames{at::kChar, "I8", "int8"},
    DtypeNames{at::kByte, "U8", "uint8"},
    DtypeNames{at::kUInt16, "U16", "uint16"},
    DtypeNames{at::kUInt32, "U32", "uint32"},
    DtypeNames{at::kUInt64, "U64", "uint64"},
    DtypeNames{at::kBool, "BOOL", "bool"},
    DtypeNames{at::kFloat8_e4m3fn, "F8_E4M3", "float8_e4m3fn"},
    DtypeNames{at::kFloat8_e5m2, "F8_E5M2", "float8_e5m2"},
};

const DtypeNames* find(at::ScalarType dtype) {
  for (const DtypeNames& names : kNames) {
    if (names.dtype == dtype) return &names;
  }
  return nullptr;
}

}  // namespace

std::string_view safetensors_dtype_name(at::ScalarType dtype) {
  if (const DtypeNames* names = find(dtype)) return names->safetensors;
  throw UsageError(Problem{.where = "safetensors",
                           .expected = "an element type the format has a name for",
                           .found = std::string(dtype_name(dtype)),
                           .fix = "Convert the tensor first."});
}

std::optional<at::ScalarType> safetensors_dtype(std::string_view name) {
  for (const DtypeNames& names : kNames) {
    if (names.safetensors == name) return names.dtype;
  }
  return std::nullopt;
}

std::string_view dtype_name(at::ScalarType dtype) {
  const DtypeNames* names = find(dtype);
  return names != nullptr ? names->torch : std::string_view(c10::toString(dtype));
}

}  // namespace thaw
