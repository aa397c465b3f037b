#include "thaw/data/loader.h"

#include <gmock/gmock.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "data/dataset_fixture.h"
#include "thaw/tensor/digest.h"

namespace thaw::loader_test {
namespace {

using namespace std::chrono_literals;
using test::given_set;
using test::message_of;
using ::testing::HasSubstr;

LeRobotDataset small_set() { return LeRobotDataset::open(given_set("v30_png"), {.deltas = {{"action", {0, 1, 2}}}}); }
LeRobotDataset numbers_only() { return LeRobotDataset::open(given_set("v30_h264"), {.decode_images = false}); }

std::string fingerprint(const Batch& batch) {
  std::string text;
  for (const std::int64_t index : batch.indices) text += std::to_string(index) + " ";
  for (const std::string& task : batch.tasks) text += task + " ";
  for (const auto& [key, tensor] : batch.tensors) text += key + tensor_digest(tensor) + " ";
  return text;
}

std::vector<std::string> first_batches(DataLoader& loader, int count) {
  std::vector<std::string> found;
  for (int i = 0; i < count; ++i) found.push_back(fingerprint(loader.next()));
  return found;
}

TEST(DataLoader, AnyNumberOfWorkersGivesTheSameBatches) {
  const int batches = 9;  // 41 frames in batches of 6: into the second epoch
  DataLoader none(small_set(), {.batch_size = 6, .workers = 0});
  const auto expected = first_batches(none, batches);
  EXPECT_EQ(none.batches_per_epoch(), 7);
  for (const int workers : {1, 4}) {
    for (const int prefetch : {1, 3}) {
      DataLoader loader(small_set(), {.batch_size = 6, .workers = workers, .prefetch = prefetch});
      EXPECT_EQ(first_batches(loader, batches), expected) << workers << " workers, " << prefetch << " ahead";
    }
  }
}

TEST(DataLoader, ResumesAtAnyBatch) {
  DataLoader whole(small_set(), {.batch_size = 6, .workers = 2});
  const auto expected = first_batches(whole, 10);
  for (const int start : {1, 7, 9}) {
    DataLoader resumed(small_set(), {.batch_size = 6, .first_batch = start, .workers = 2});
    EXPECT_EQ(fingerprint(resumed.next()), expected[static_cast<std::size_t>(start)]);
  }
}

TEST(DataLoader, BatchesHaveALeadingBatchAxis) {
  DataLoader loader(small_set(), {.batch_size = 4, .shuffle = false, .workers = 2});
  const Batch batch = loader.next();
  EXPECT_EQ(batch.at("observation.images.corner").sizes(), at::IntArrayRef({4, 3, 64, 64}));
  EXPECT_EQ(batch.at("action").sizes(), at::IntArrayRef({4, 3, 4}));
  EXPECT_EQ(batch.at("action_is_pad").sizes(), at::IntArrayRef({4, 3}));
  EXPECT_EQ(batch.at("timestamp").sizes(), at::IntArrayRef({4}));
  EXPECT_THAT(batch.indices, ::testing::ElementsAre(0, 1, 2, 3));
}

TEST(DataLoader, TransformRunsOnTheWorkers) {
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> elsewhere{false};
  DataLoader loader(numbers_only(), {.batch_size = 4, .workers = 1}, [&](Batch batch) {
    elsewhere = std::this_thread::get_id() != caller;
    batch.tensors["added"] = at::ones({batch.size()});
    return batch;
  });
  EXPECT_TRUE(loader.next().has("added"));
  EXPECT_TRUE(elsewhere);
}

TEST(DataLoader, ReadsNoFurtherAheadThanAsked) {
  std::atomic<int> made{0};
  DataLoader loader(numbers_only(), {.batch_size = 2, .workers = 3, .prefetch = 3}, [&](Batch batch) {
    ++made;
    return batch;
  });
  const auto deadline = std::chrono::steady_clock::now() + 2s;
  while (made < 3 && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(30ms);
  EXPECT_EQ(made, 3);
  static_cast<void>(loader.next());
  while (made < 4 && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(30ms);
  EXPECT_EQ(made, 4);
}

TEST(DataLoader, StopsWhileWorkersAreBusy) {
  std::atomic<int> running{0};
  const auto begin = std::chrono::steady_clock::now();
  {
    DataLoader loader(numbers_only(), {.batch_size = 1, .workers = 4, .prefetch = 64}, [&](Batch batch) {
      ++running;
      std::this_thread::sleep_for(20ms);
      return batch;
    });
    while (running < 4) std::this_thread::sleep_for(1ms);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1s) << "the destructor waited for batches nobody wants";
  EXPECT_LT(running, 20);
}

TEST(DataLoader, ErrorsArriveAtTheirBatchAndTheRestGoesOn) {
  for (const int workers : {0, 3}) {
    DataLoader loader(numbers_only(), {.batch_size = 8, .shuffle = false, .workers = workers}, [](Batch batch) {
      if (batch.indices.front() == 8 || batch.indices.front() == 24) {
        throw FormatError("batch " + std::to_string(batch.indices.front() / 8));
      }
      return batch;
    });
    for (int i = 0; i < 6; ++i) {
      if (i == 1 || i == 3) {
        EXPECT_EQ(message_of<FormatError>([&] { static_cast<void>(loader.next()); }), "batch " + std::to_string(i));
      } else {
        EXPECT_EQ(loader.next().indices.front(), 8 * i);
      }
    }
  }
}

TEST(DataLoader, ErrorOfTheFirstBadFrameOfABatchIsTheOneReported) {
  const test::DatasetCopy copy("v30_png");
  LeRobotDataset dataset = LeRobotDataset::open(copy.root());
  copy.edit_bytes("data/chunk-000/file-000.parquet", [](std::string& bytes) {
    // Compressed data of both row groups' images; the numbers are in memory already.
    for (std::size_t i = 20'000; i < bytes.size() - 40'000; ++i) bytes[i] = 'x';
  });
  std::string expected;
  for (const int workers : {0, 1, 4}) {
    DataLoader loader(dataset.with({}), {.batch_size = 41, .workers = workers});
    const std::string message = message_of<FormatError>([&] { static_cast<void>(loader.next()); });
    EXPECT_THAT(message, HasSubstr("data/chunk-000/file-000.parquet"));
    if (expected.empty()) expected = message;
    EXPECT_EQ(message, expected);
  }
}

TEST(DataLoader, CountsTheTimeTheTrainerWaits) {
  DataLoader loader(numbers_only(), {.batch_size = 2, .workers = 1, .prefetch = 1}, [](Batch batch) {
    std::this_thread::sleep_for(20ms);
    return batch;
  });
  EXPECT_EQ(loader.wait_seconds(), 0.0);
  static_cast<void>(loader.next());
  static_cast<void>(loader.next());
  EXPECT_GT(loader.wait_seconds(), 0.02);
  EXPECT_LT(loader.wait_seconds(), 2.0);
}

TEST(DataLoader, WorkersLeaveSignalsToTheMainThread) {
  std::atomic<int> blocked{-1};
  DataLoader loader(numbers_only(), {.batch_size = 2, .workers = 1}, [&](Batch batch) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    blocked = sigismember(&mask, SIGTERM);
    return batch;
  });
  static_cast<void>(loader.next());
  EXPECT_EQ(blocked, 1);
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  EXPECT_EQ(sigismember(&mask, SIGTERM), 0) << "the caller's own mask is as before";
}

TEST(DataLoader, RefusesOptionsOutOfRange) {
  const auto refusal = [](const LoaderOptions& options) {
    return message_of<UsageError>([&] { const DataLoader loader(numbers_only(), options); });
  };
  EXPECT_THAT(refusal({.batch_size = 0}), HasSubstr("loader batch_size"));
  EXPECT_THAT(refusal({.first_batch = -1}), HasSubstr("loader first_batch"));
  EXPECT_THAT(refusal({.workers = -1}), HasSubstr("loader workers"));
  EXPECT_THAT(refusal({.prefetch = 0}), HasSubstr("loader prefetch"));
}

}  // namespace
}  // namespace thaw::loader_test
