// Blocks of one range of addresses: where they lie, and that nothing of the range is lost.
#include "thaw/tensor/best_fit.h"

#include <algorithm>
#include <map>
#include <random>

#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::best_fit_test {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kUnit = BestFit::kAlignment;

/// Addresses that nobody reads or writes.
std::span<std::byte> range_of(std::size_t units) { return {reinterpret_cast<std::byte*>(0x10000), units * kUnit}; }

TEST(BestFit, TheSmallestFreeBlockThatIsLargeEnoughIsGiven) {
  BestFit blocks(range_of(100));
  std::byte* const four = blocks.allocate(4 * kUnit);
  std::byte* const between = blocks.allocate(kUnit);
  std::byte* const two = blocks.allocate(2 * kUnit);
  std::byte* const behind = blocks.allocate(kUnit);
  blocks.free(four);
  blocks.free(two);
  EXPECT_EQ(blocks.allocate(2 * kUnit), two);
  EXPECT_EQ(blocks.allocate(kUnit), four);
  EXPECT_EQ(blocks.allocate(3 * kUnit), four + kUnit);
  EXPECT_EQ(blocks.allocate(kUnit), behind + kUnit);
  EXPECT_EQ(between, four + 4 * kUnit);
}

TEST(BestFit, SizesAreRoundedUpToTheAlignment) {
  BestFit blocks(range_of(3));
  std::byte* const first = blocks.allocate(1);
  EXPECT_EQ(blocks.allocate(kUnit + 1), first + kUnit);
  EXPECT_EQ(blocks.used(), 3 * kUnit);
  EXPECT_EQ(blocks.allocate(1), nullptr);
}

TEST(BestFit, WithoutRoomNothingIsGiven) {
  BestFit blocks(range_of(4));
  EXPECT_EQ(blocks.allocate(5 * kUnit), nullptr);
  EXPECT_EQ(blocks.allocate(SIZE_MAX), nullptr);
  EXPECT_NE(blocks.allocate(4 * kUnit), nullptr);
  EXPECT_EQ(blocks.allocate(1), nullptr);
  BestFit none(range_of(0));
  EXPECT_EQ(none.allocate(1), nullptr);
}

TEST(BestFit, WhatIsNoBlockInUseIsRefused) {
  BestFit blocks(range_of(8));
  std::byte* const block = blocks.allocate(2 * kUnit);
  EXPECT_THAT(test::message_of<UsageError>([&] { blocks.free(block + kUnit); }),
              HasSubstr("the address of a block in use"));
  blocks.free(block);
  EXPECT_THAT(test::message_of<UsageError>([&] { blocks.free(block); }), HasSubstr("the address of a block in use"));
}

TEST(BestFit, ManyBlocksNeverOverlapAndWhatIsFreeIsJoined) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 20; ++round) {
    const auto range = range_of(1 + random() % 4096);
    BestFit blocks(range);
    std::map<std::byte*, std::size_t> in_use;
    for (int step = 0; step < 2000; ++step) {
      if (in_use.empty() || random() % 5 < 3) {
        const std::size_t size = 1 + random() % (64 * kUnit);
        if (std::byte* const block = blocks.allocate(size)) in_use[block] = (size + kUnit - 1) / kUnit * kUnit;
      } else {
        const auto victim = std::next(in_use.begin(), static_cast<std::ptrdiff_t>(random() % in_use.size()));
        blocks.free(victim->first);
        in_use.erase(victim);
      }
      // Used and free blocks, in order, cover the range, and no two free ones touch.
      std::map<std::byte*, std::pair<std::size_t, bool>> all;
      for (const auto& [address, size] : in_use) all[address] = {size, false};
      for (const auto& free : blocks.free_blocks()) all[free.data()] = {free.size(), true};
      std::byte* expected = range.data();
      bool free_before = false;
      for (const auto& [address, block] : all) {
        ASSERT_EQ(address, expected);
        ASSERT_FALSE(free_before && block.second);
        expected += block.first;
        free_before = block.second;
      }
      ASSERT_EQ(expected, range.data() + range.size());
    }
    for (const auto& [address, size] : in_use) blocks.free(address);
    EXPECT_EQ(blocks.used(), 0U);
    ASSERT_EQ(blocks.free_blocks().size(), 1U);
    EXPECT_EQ(blocks.free_blocks().front().size(), range.size());
  }
}

}  // namespace
}  // namespace thaw::best_fit_test
