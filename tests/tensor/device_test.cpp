#include "thaw/tensor/device.h"

#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::device_test {
namespace {

using test::message_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string refusal(std::string_view text) {
  return message_of<UsageError>([&] { static_cast<void>(parse_device(text)); });
}

TEST(ParseDevice, TakesTheCpu) { EXPECT_EQ(parse_device("cpu"), at::Device(at::kCPU)); }

TEST(ParseDevice, AutoIsCudaWhereADeviceAnswers) {
  EXPECT_EQ(parse_device("auto"), cuda_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU));
}

TEST(ParseDevice, RefusesOtherWords) {
  for (const char* text : {"", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda:999999999999", "cuda: 1"}) {
    EXPECT_THAT(refusal(text),
                AllOf(HasSubstr(std::string("device '") + text), HasSubstr("auto, cpu, cuda or cuda:N")));
  }
}

TEST(ParseDevice, SaysWhyThereIsNoCuda) {
  if (cuda_available()) GTEST_SKIP() << "a CUDA device answers here";
  EXPECT_THAT(refusal("cuda"), AllOf(HasSubstr("no CUDA ("), HasSubstr("--device cpu")));
  EXPECT_THAT(refusal("cuda:1"), HasSubstr("no CUDA ("));
}

TEST(ParseDevice, CountsDevices) {
  if (!cuda_available()) GTEST_SKIP() << "no CUDA device answers here";
  EXPECT_EQ(parse_device("cuda:0"), at::Device(at::kCUDA, 0));
  EXPECT_THAT(refusal("cuda:100"), HasSubstr("Count from cuda:0"));
}

TEST(HasNativeBf16, AgreesWithTheKernelsListOfInstructions) {
  std::ifstream info("/proc/cpuinfo");
  const std::string text((std::istreambuf_iterator<char>(info)), std::istreambuf_iterator<char>());
  if (text.find("\nflags") == std::string::npos) GTEST_SKIP() << "the kernel lists no x86 instruction sets here";
  const bool listed = text.find(" avx512_bf16") != std::string::npos || text.find(" amx_bf16") != std::string::npos;
  EXPECT_EQ(has_native_bf16(at::kCPU), listed);
}

}  // namespace
}  // namespace thaw::device_test
