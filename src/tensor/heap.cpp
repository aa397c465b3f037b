#include "thaw/tensor/heap.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <optional>

#include "thaw/tensor/best_fit.h"

namespace thaw {
namespace {

std::size_t page_bytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

/// Addresses alone: pages come when they are first written. Empty when the system does not give them.
std::span<std::byte> reserve_addresses() {
  const std::size_t size = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * page_bytes();
  void* begin = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (begin == MAP_FAILED) return {};
  return {static_cast<std::byte*>(begin), size};
}

/// Whole pages of `block`, given back.
void give_back(std::span<std::byte> block) {
  const std::size_t page = page_bytes();
  const auto first = (reinterpret_cast<std::uintptr_t>(block.data()) + page - 1) / page * page;
  const auto last = reinterpret_cast<std::uintptr_t>(block.data() + block.size()) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

class TensorHeap final : public c10::Allocator {
 public:
  TensorHeap(std::span<std::byte> range, c10::Allocator* before) : blocks_(range), before_(before) {}

  c10::DataPtr allocate(std::size_t bytes) override {
    std::byte* block = bytes < kLargeTensorBytes ? nullptr : take(bytes);
    if (block == nullptr) return before_->allocate(bytes);
    return {block, block, &free_tensor, c10::Device(c10::DeviceType::CPU)};
  }

  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override { return &free_tensor; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  [[nodiscard]] std::size_t used() {
    const std::lock_guard lock(mutex_);
    return blocks_.used();
  }

  void give_free_pages_back() {
    const std::lock_guard lock(mutex_);
    for (const std::span<std::byte> block : blocks_.free_blocks()) give_back(block);
  }

 private:
  static void free_tensor(void* address);

  std::byte* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    return blocks_.allocate(bytes);
  }

  void free(void* address) {
    auto* block = static_cast<std::byte*>(address);
    if (!blocks_.contains(block)) {
      before_->raw_deallocate(address);
      return;
    }
    const std::lock_guard lock(mutex_);
    blocks_.free(block);
  }

  std::mutex mutex_;
  BestFit blocks_;
  c10::Allocator* before_;
};

/// The one in use. It is never destroyed: tensors of static objects outlive everything that could do it.
TensorHeap*& heap() {
  static TensorHeap* the_heap = nullptr;
  return the_heap;
}

void TensorHeap::free_tensor(void* address) { heap()->free(address); }

}  // namespace

bool use_tensor_heap() {
  if (heap() != nullptr) return true;
  const std::span<std::byte> range = reserve_addresses();
  if (range.empty()) return false;
  heap() = new TensorHeap(range, c10::GetCPUAllocator());
  c10::SetCPUAllocator(heap());
  return true;
}

std::size_t tensor_heap_bytes() { return heap() == nullptr ? 0 : heap()->used(); }

void release_free_memory() {
  if (heap() != nullptr) heap()->give_free_pages_back();
  malloc_trim(0);
}

}  // namespace thaw
