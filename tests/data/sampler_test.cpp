#include "thaw/data/sampler.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::sampler_test {
namespace {

using test::message_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::int64_t> epoch_of(const Sampler& sampler, std::int64_t epoch) {
  std::vector<std::int64_t> all;
  for (std::int64_t b = 0; b < sampler.batches_per_epoch(); ++b) {
    const auto batch = sampler.positions(epoch * sampler.batches_per_epoch() + b);
    all.insert(all.end(), batch.begin(), batch.end());
  }
  return all;
}

TEST(Sampler, EveryEpochHoldsEverySampleOnceInItsOwnOrder) {
  const Sampler sampler({.size = 103, .batch_size = 10, .seed = 3});
  EXPECT_EQ(sampler.batches_per_epoch(), 11);
  auto first = epoch_of(sampler, 0);
  auto second = epoch_of(sampler, 1);
  EXPECT_NE(first, second);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);
  EXPECT_EQ(first.front(), 0);
  EXPECT_EQ(first.back(), 102);
  EXPECT_EQ(std::unique(first.begin(), first.end()), first.end());
  EXPECT_EQ(first.size(), 103U);
}

TEST(Sampler, OrderDependsOnSeedAndEpochAlone) {
  const Sampler a({.size = 50, .batch_size = 8, .seed = 1});
  const Sampler b({.size = 50, .batch_size = 8, .seed = 1});
  const Sampler other({.size = 50, .batch_size = 8, .seed = 2});
  EXPECT_EQ(a.positions(9), b.positions(9));
  EXPECT_NE(epoch_of(a, 0), epoch_of(other, 0));
  EXPECT_EQ(epoch_of(a, 2), epoch_of(Sampler({.size = 50, .batch_size = 7, .seed = 1}), 2))
      << "the batch size only cuts";
}

TEST(Sampler, LastBatchIsSmallerAndTheNextEpochBeginsAnew) {
  const Sampler sampler({.size = 5, .batch_size = 2, .shuffle = false});
  EXPECT_THAT(sampler.positions(0), ElementsAre(0, 1));
  EXPECT_THAT(sampler.positions(2), ElementsAre(4));
  EXPECT_THAT(sampler.positions(3), ElementsAre(0, 1));
}

TEST(Sampler, BatchLargerThanTheDatasetIsTheDataset) {
  const Sampler sampler({.size = 3, .batch_size = 100, .shuffle = false});
  EXPECT_EQ(sampler.batches_per_epoch(), 1);
  EXPECT_THAT(sampler.positions(7), ElementsAre(0, 1, 2));
}

TEST(Sampler, RefusesEmptySizes) {
  EXPECT_THAT(message_of<UsageError>([] { const Sampler s({.size = 0}); }), HasSubstr("sampler size"));
  EXPECT_THAT(message_of<UsageError>([] { const Sampler s({.size = 4, .batch_size = 0}); }),
              HasSubstr("sampler batch_size"));
}

}  // namespace
}  // namespace thaw::sampler_test
