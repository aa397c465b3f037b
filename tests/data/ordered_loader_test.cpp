#include "thaw/data/ordered_loader.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

#include "core/throws.h"
#include "thaw/core/error.h"
#include "thaw/data/sampler.h"

namespace thaw::ordered_loader_test {
namespace {

using test::message_of;
using ::testing::HasSubstr;

constexpr std::int64_t kSize = 23;

Sample numbered(const Visit& visit) {
  return {.task = std::to_string(visit.position), .index = visit.position, .episode = visit.epoch};
}

/// What a gatherer of one's own may return: anything that can be copied.
std::any positions_of(const std::vector<Sample>& samples) {
  std::vector<std::int64_t> positions;
  for (const Sample& sample : samples) positions.push_back(sample.index);
  return positions;
}

std::vector<std::int64_t> next_of(OrderedLoader& loader) {
  return std::any_cast<std::vector<std::int64_t>>(loader.next());
}

TEST(OrderedLoader, GivesTheSamplersOrderWhateverTheReadersTake) {
  const Sampler sampler({.size = kSize, .batch_size = 5, .seed = 3});
  for (const int workers : {0, 1, 4}) {
    const auto read = [](const Visit& visit) {
      std::this_thread::sleep_for(std::chrono::microseconds((visit.position * 37) % 500));
      return numbered(visit);
    };
    OrderedLoader loader(kSize, {.batch_size = 5, .seed = 3, .workers = workers}, read, positions_of);
    EXPECT_EQ(loader.batches_per_epoch(), 5);
    for (std::int64_t batch = 0; batch < 12; ++batch) {
      EXPECT_EQ(next_of(loader), sampler.positions(batch)) << workers << " workers, batch " << batch;
    }
  }
}

TEST(OrderedLoader, TellsReadersTheEpochOfTheBatchAlsoWhereItBeginsLater) {
  const auto epochs_of = [](const std::vector<Sample>& samples) -> std::any {
    std::vector<std::int64_t> epochs;
    for (const Sample& sample : samples) epochs.push_back(sample.episode);
    return epochs;
  };
  for (const int workers : {0, 3}) {
    OrderedLoader loader(10, {.batch_size = 4, .first_batch = 2, .workers = workers}, numbered, epochs_of);
    EXPECT_EQ(next_of(loader), (std::vector<std::int64_t>{0, 0}));  // the last and shorter one of the first epoch
    EXPECT_EQ(next_of(loader), (std::vector<std::int64_t>{1, 1, 1, 1}));
    for (int batch = 0; batch < 2; ++batch) static_cast<void>(loader.next());
    EXPECT_EQ(next_of(loader).front(), 2);
  }
}

TEST(OrderedLoader, ReadsAndGathersOnTheWorkers) {
  const auto caller = std::this_thread::get_id();
  std::atomic<int> here{0};
  const auto count = [&] { here += std::this_thread::get_id() == caller ? 1 : 0; };
  OrderedLoader loader(
      kSize, {.batch_size = 4, .workers = 2},
      [&](const Visit& visit) {
        count();
        return numbered(visit);
      },
      [&](std::vector<Sample> samples) {
        count();
        return positions_of(samples);
      });
  EXPECT_EQ(next_of(loader).size(), 4U);
  EXPECT_EQ(here, 0);
}

TEST(OrderedLoader, NeighboursThatReadOnAreReadInOrderByOneWorker) {
  const auto same_file = [](std::int64_t before, std::int64_t next) { return before / 4 == next / 4; };
  std::mutex mutex;
  std::map<std::int64_t, std::vector<std::pair<std::thread::id, std::int64_t>>> reads;  // by file
  const auto read = [&](const Visit& visit) {
    {
      const std::lock_guard lock(mutex);
      reads[visit.position / 4].emplace_back(std::this_thread::get_id(), visit.position);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(300));  // the others would take the rest
    return numbered(visit);
  };
  OrderedLoader loader(24, {.batch_size = 24, .workers = 3, .prefetch = 1}, read, positions_of, same_file);
  const std::vector<std::int64_t> batch = next_of(loader);
  const std::lock_guard lock(mutex);  // the next batch may have begun
  ASSERT_EQ(reads.size(), 6U);
  for (const auto& [file, of_file] : reads) {
    ASSERT_GE(of_file.size(), 4U);
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(of_file[i].first, of_file[0].first) << "file " << file;
      EXPECT_EQ(of_file[i].second, 4 * file + static_cast<std::int64_t>(i));
    }
  }
  EXPECT_EQ(batch, Sampler({.size = 24, .batch_size = 24}).positions(0)) << "the batch is in its own order";
}

TEST(OrderedLoader, FirstFailedSampleOfABatchIsTheOneReportedAndTheRestGoesOn) {
  const auto read = [](const Visit& visit) {
    if (visit.position == 6 || visit.position == 7) throw FormatError("sample " + std::to_string(visit.position));
    return numbered(visit);
  };
  for (const int workers : {0, 3}) {
    OrderedLoader loader(kSize, {.batch_size = 4, .shuffle = false, .workers = workers}, read, positions_of);
    EXPECT_EQ(next_of(loader).front(), 0);
    EXPECT_EQ(message_of<FormatError>([&] { static_cast<void>(loader.next()); }), "sample 6");
    EXPECT_EQ(next_of(loader).front(), 8);
  }
}

TEST(OrderedLoader, RefusesToReadNothing) {
  const auto of_size = [](std::int64_t size) {
    return message_of<UsageError>([&] { const OrderedLoader loader(size, {}, numbered, positions_of); });
  };
  EXPECT_THAT(of_size(0), HasSubstr("sampler size"));
}

}  // namespace
}  // namespace thaw::ordered_loader_test
