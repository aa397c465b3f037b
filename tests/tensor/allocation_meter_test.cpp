#include "tensor/allocation_meter.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

namespace {

std::atomic<std::size_t> largest{0};

/// Null when there is no memory.
void* counted_or_null(std::size_t size) {
  std::size_t known = largest.load();
  while (known < size && !largest.compare_exchange_weak(known, size)) {
  }
  return std::malloc(size > 0 ? size : 1);
}

void* counted(std::size_t size) {
  if (void* memory = counted_or_null(size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// Of the whole test program; the forms that do not throw too, for all of them are freed by the same operators below.
void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept { return counted_or_null(size); }
void* operator new[](std::size_t size, const std::nothrow_t& /*tag*/) noexcept { return counted_or_null(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t /*size*/) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t /*size*/) noexcept { std::free(memory); }

namespace thaw {
namespace test {

void reset_largest_allocation() { largest = 0; }
std::size_t largest_allocation() { return largest; }

}  // namespace test

namespace {

TEST(AllocationMeter, SeesTheLargestRequest) {
  test::reset_largest_allocation();
  std::string text(10'000, 'x');
  EXPECT_GE(test::largest_allocation(), 10'000U);
  EXPECT_LT(test::largest_allocation(), 20'000U);
  text.reserve(100'000);
  EXPECT_GE(test::largest_allocation(), 100'000U);
}

}  // namespace
}  // namespace thaw
