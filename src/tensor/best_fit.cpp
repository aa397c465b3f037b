#include "thaw/tensor/best_fit.h"

#include <iterator>

#include "thaw/core/error.h"

namespace thaw {

BestFit::BestFit(std::span<std::byte> range)
    : begin_(range.data()), end_(range.data() + range.size() / kAlignment * kAlignment) {
  if (begin_ != end_) set_free(blocks_.try_emplace(begin_).first, static_cast<std::size_t>(end_ - begin_));
}

std::byte* BestFit::allocate(std::size_t bytes) {
  const std::size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const auto fit = size < bytes ? free_.end() : free_.lower_bound({size, nullptr});
  if (fit == free_.end()) return nullptr;
  const auto [found, address] = *fit;
  const auto block = blocks_.find(address);
  set_used(block);
  if (found > size) {
    block->second.size = size;
    set_free(blocks_.try_emplace(address + size).first, found - size);
  }
  used_ += size;
  return address;
}

void BestFit::free(std::byte* address) {
  auto block = blocks_.find(address);
  if (block == blocks_.end() || block->second.is_free) {
    throw UsageError(
        Problem{.where = "BestFit::free", .expected = "the address of a block in use", .found = "another address"});
  }
  std::size_t size = block->second.size;
  used_ -= size;
  if (const auto next = std::next(block); next != blocks_.end() && next->second.is_free) {
    size += next->second.size;
    set_used(next);
    blocks_.erase(next);
  }
  if (block != blocks_.begin() && std::prev(block)->second.is_free) {
    const auto previous = std::prev(block);
    size += previous->second.size;
    set_used(previous);
    blocks_.erase(block);
    block = previous;
  }
  set_free(block, size);
}

std::vector<std::span<std::byte>> BestFit::free_blocks() const {
  std::vector<std::span<std::byte>> found;
  for (const auto& [address, block] : blocks_) {
    if (block.is_free) found.emplace_back(address, block.size);
  }
  return found;
}

void BestFit::set_free(Blocks::iterator block, std::size_t size) {
  block->second = {.size = size, .is_free = true};
  free_.emplace(size, block->first);
}

void BestFit::set_used(Blocks::iterator block) {
  free_.erase({block->second.size, block->first});
  block->second.is_free = false;
}

}  // namespace thaw
