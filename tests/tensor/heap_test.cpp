// The heap of large tensors, in use for the rest of this program.
#include "thaw/tensor/heap.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <unistd.h>

#include <fstream>
#include <thread>

namespace thaw::heap_test {
namespace {

constexpr std::int64_t kMega = std::int64_t{1} << 20;

at::Tensor bytes(std::int64_t size) { return at::full({size}, 1, at::kByte); }

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t whole = 0;
  std::int64_t resident = 0;
  file >> whole >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

class TensorHeap : public testing::Test {
 protected:
  void SetUp() override {
    if (!use_tensor_heap()) GTEST_SKIP() << "this system reserves no addresses (ulimit -v)";
    before_ = tensor_heap_bytes();
  }
  [[nodiscard]] std::size_t held() const { return tensor_heap_bytes() - before_; }

 private:
  std::size_t before_ = 0;
};

TEST_F(TensorHeap, LargeTensorsLieInItAndSmallOnesDoNot) {
  const at::Tensor small = bytes(static_cast<std::int64_t>(kLargeTensorBytes) - 1);
  EXPECT_EQ(held(), 0U);
  at::Tensor large = bytes(static_cast<std::int64_t>(kLargeTensorBytes));
  EXPECT_EQ(held(), kLargeTensorBytes);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(large.data_ptr()) % 64, 0U);
  large.reset();
  EXPECT_EQ(held(), 0U);
}

TEST_F(TensorHeap, TensorsThatWereMadeBeforeItAreStillFreed) {
  // Those of malloc go through the same deleter.
  c10::Allocator* allocator = c10::GetAllocator(c10::DeviceType::CPU);
  void* small = allocator->raw_allocate(100);
  void* large = allocator->raw_allocate(static_cast<std::size_t>(kMega));
  EXPECT_EQ(held(), static_cast<std::size_t>(kMega));
  allocator->raw_deallocate(small);
  allocator->raw_deallocate(large);
  EXPECT_EQ(held(), 0U);
}

TEST_F(TensorHeap, AStorageThatGrowsKeepsItsValues) {
  at::Tensor tensor = at::arange(kMega, at::kInt);
  tensor.resize_({4 * kMega});
  EXPECT_EQ(held(), static_cast<std::size_t>(16 * kMega));
  EXPECT_TRUE(tensor.narrow(0, 0, kMega).equal(at::arange(kMega, at::kInt)));
}

TEST_F(TensorHeap, ALargeTensorTakesTheRoomOfManyFreedOnes) {
  std::vector<at::Tensor> many;
  for (int i = 0; i < 64; ++i) many.push_back(bytes(kMega));
  many.clear();
  const std::int64_t before = resident_bytes();
  const at::Tensor large = bytes(64 * kMega);
  EXPECT_LT(resident_bytes() - before, 8 * kMega);
}

TEST_F(TensorHeap, FreePagesGoBackToTheSystem) {
  const at::Tensor kept = bytes(kMega);
  at::Tensor large = bytes(256 * kMega);
  large.reset();
  const std::int64_t before = resident_bytes();
  release_free_memory();
  EXPECT_LT(resident_bytes() - before, -240 * kMega);
  EXPECT_EQ(kept.sum().item<std::int64_t>(), kMega);
  EXPECT_EQ(bytes(256 * kMega).sum().item<std::int64_t>(), 256 * kMega);
}

TEST_F(TensorHeap, ThreadsMayGiveTensorsToEachOther) {
  std::vector<at::Tensor> made(8);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < made.size(); ++i) {
      threads.emplace_back([&made, i] {
        for (int round = 0; round < 50; ++round) made[i] = at::full({kMega}, static_cast<std::int64_t>(i), at::kByte);
      });
    }
  }
  for (std::size_t i = 0; i < made.size(); ++i) {
    EXPECT_TRUE(made[i].eq(static_cast<std::int64_t>(i)).all().item<bool>()) << i;
  }
  made.clear();
  EXPECT_EQ(held(), 0U);
}

}  // namespace
}  // namespace thaw::heap_test
