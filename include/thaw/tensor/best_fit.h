/// Where blocks lie in one range of addresses. Nothing here touches the memory itself.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace thaw {

/// Gives the smallest free block that is large enough, the lowest of several, and joins free neighbours. So what is
/// freed together is free as one, and a large block fits wherever there is room for it. Not synchronised.
class BestFit {
 public:
  static constexpr std::size_t kAlignment = 64;  ///< of every block, and sizes are rounded up to it

  /// @param range at an address that is a multiple of kAlignment; what is behind its last multiple is not used
  explicit BestFit(std::span<std::byte> range);

  /// Null when no free block is large enough. `bytes` > 0
  [[nodiscard]] std::byte* allocate(std::size_t bytes);
  /// `block` comes from allocate() and was not freed since. @throws UsageError otherwise
  void free(std::byte* block);

  [[nodiscard]] bool contains(const std::byte* address) const { return address >= begin_ && address < end_; }
  /// Bytes of the blocks that are in use.
  [[nodiscard]] std::size_t used() const { return used_; }
  /// In the order of their addresses.
  [[nodiscard]] std::vector<std::span<std::byte>> free_blocks() const;

 private:
  struct Block {
    std::size_t size = 0;
    bool is_free = false;
  };
  using Blocks = std::map<std::byte*, Block>;  // all of the range, without gaps

  void set_free(Blocks::iterator block, std::size_t size);
  void set_used(Blocks::iterator block);

  std::byte* begin_;
  std::byte* end_;
  std::size_t used_ = 0;
  Blocks blocks_;
  std::set<std::pair<std::size_t, std::byte*>> free_;  // size first
};

}  // namespace thaw
