/// Open readers kept for the next request: one a file and thread, and a bounded number wait. A thread gets its own
/// back, which stands where that thread stopped reading: another's would have to seek, and so would the other thread
/// next.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

namespace thaw::lerobot {

template <class Key, class Reader>
class ReaderPool {
 public:
  explicit ReaderPool(std::size_t capacity) : capacity_(capacity) {}

  /// `use(reader)` with this thread's reader of `key`, or a new one from `make()`. When `use` throws, the reader is
  /// thrown away: its place in the file is not known any more.
  template <class Make, class Use>
  auto with(const Key& key, Make&& make, Use&& use) {
    std::unique_ptr<Reader> reader = take(key);
    if (reader == nullptr) reader = make();
    auto result = use(*reader);
    give_back(key, std::move(reader));
    return result;
  }

 private:
  struct Waiting {
    Key key;
    std::thread::id thread;  // ended threads leave theirs to a later thread of the same id, or to be closed
    std::unique_ptr<Reader> reader;
  };

  std::unique_ptr<Reader> take(const Key& key) {
    const std::lock_guard lock(mutex_);
    for (auto entry = waiting_.begin(); entry != waiting_.end(); ++entry) {
      if (entry->key != key || entry->thread != std::this_thread::get_id()) continue;
      std::unique_ptr<Reader> reader = std::move(entry->reader);
      waiting_.erase(entry);
      return reader;
    }
    return nullptr;
  }

  void give_back(const Key& key, std::unique_ptr<Reader> reader) {
    std::unique_ptr<Reader> closed_outside_the_lock;
    const std::lock_guard lock(mutex_);
    waiting_.push_front({.key = key, .thread = std::this_thread::get_id(), .reader = std::move(reader)});
    if (waiting_.size() <= capacity_) return;
    closed_outside_the_lock = std::move(waiting_.back().reader);
    waiting_.pop_back();
  }

  std::size_t capacity_;
  std::mutex mutex_;
  std::list<Waiting> waiting_;  // used last first
};

}  // namespace thaw::lerobot
