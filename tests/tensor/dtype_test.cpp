#include "thaw/tensor/dtype.h"

#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::dtype_test {
namespace {

TEST(Dtype, NameLeadsBackToTheType) {
  for (const auto dtype :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort, at::kChar, at::kByte,
        at::kUInt16, at::kUInt32, at::kUInt64, at::kBool, at::kFloat8_e4m3fn, at::kFloat8_e5m2}) {
    EXPECT_EQ(safetensors_dtype(safetensors_dtype_name(dtype)), dtype);
  }
}

TEST(Dtype, NamesAreThoseOfTheFormatAndOfTorch) {
  EXPECT_EQ(safetensors_dtype_name(at::kBFloat16), "BF16");
  EXPECT_EQ(safetensors_dtype_name(at::kFloat8_e4m3fn), "F8_E4M3");
  EXPECT_EQ(dtype_name(at::kBFloat16), "bfloat16");
  EXPECT_EQ(dtype_name(at::kByte), "uint8");
}

TEST(Dtype, UnknownNameGivesNothing) {
  for (const char* name : {"", "f32", "F31", "F4", "BF16 ", "C64"}) EXPECT_FALSE(safetensors_dtype(name)) << name;
}

TEST(Dtype, TypeWithoutANameIsRefused) {
  EXPECT_THAT(test::message_of<UsageError>([] { static_cast<void>(safetensors_dtype_name(at::kComplexFloat)); }),
              ::testing::HasSubstr("ComplexFloat"));
}

}  // namespace
}  // namespace thaw::dtype_test
