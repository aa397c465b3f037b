#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "../../src/data/reader_pool_impl.h"

namespace thaw::lerobot::reader_pool_test {
namespace {

/// Readers numbered in the order they are opened.
class NumberedReaders {
 public:
  explicit NumberedReaders(std::size_t capacity) : pool_(capacity) {}

  int used_for(int file) {
    return pool_.with(
        file, [this] { return std::make_unique<int>(opened_++); }, [](int& reader) { return reader; });
  }
  void fail_on(int file) {
    try {
      pool_.with(
          file, [this] { return std::make_unique<int>(opened_++); },
          [](int& /*reader*/) -> int { throw std::runtime_error("damaged"); });
    } catch (const std::runtime_error&) {
    }
  }
  int used_elsewhere_for(int file) {
    int reader = -1;
    std::thread([&] { reader = used_for(file); }).join();
    return reader;
  }

 private:
  ReaderPool<int, int> pool_;
  int opened_ = 0;
};

TEST(ReaderPool, EveryThreadGetsItsOwnReaderOfAFileBack) {
  NumberedReaders readers(4);
  EXPECT_EQ(readers.used_for(7), 0);
  EXPECT_EQ(readers.used_for(8), 1);
  EXPECT_EQ(readers.used_elsewhere_for(7), 2);
  EXPECT_EQ(readers.used_for(7), 0) << "though another thread's waited shorter";
  EXPECT_EQ(readers.used_for(8), 1);
}

TEST(ReaderPool, ClosesTheOneThatWaitedLongest) {
  NumberedReaders readers(2);
  EXPECT_EQ(readers.used_for(7), 0);
  EXPECT_EQ(readers.used_for(8), 1);
  EXPECT_EQ(readers.used_for(7), 0);
  EXPECT_EQ(readers.used_for(9), 2);
  EXPECT_EQ(readers.used_for(7), 0);
  EXPECT_EQ(readers.used_for(8), 3) << "opened again";
}

TEST(ReaderPool, ReaderThatFailedIsNotUsedAgain) {
  NumberedReaders readers(2);
  EXPECT_EQ(readers.used_for(7), 0);
  readers.fail_on(7);
  EXPECT_EQ(readers.used_for(7), 1);
}

}  // namespace
}  // namespace thaw::lerobot::reader_pool_test
