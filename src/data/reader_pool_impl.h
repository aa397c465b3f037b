/// Open readers kept for the next request: at most one a thread is in use on a file, and a bounded number wait.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

namespace thaw::lerobot {

template <class Key, class Reader>
class ReaderPool {
 public:
  explicit ReaderPool(std::size_t capacity) : capacity_(capacity) {}

  /// `use(reader)` with a reader of `key` that nobody else uses: the one that waited shortest, or a new one from
  /// `make()`. When `use` throws, the reader is thrown away: its place in the file is not known any more.
  template <class Make, class Use>
  auto with(const Key& key, Make&& make, Use&& use) {
    std::unique_ptr<Reader> reader = take(key);
    if (reader == nullptr) reader = make();
    auto result = use(*reader);
    give_back(key, std::move(reader));
    return result;
  }

 private:
  std::unique_ptr<Reader> take(const Key& key) {
    const std::lock_guard lock(mutex_);
    for (auto entry = waiting_.begin(); entry != waiting_.end(); ++entry) {
      if (entry->first != key) continue;
      std::unique_ptr<Reader> reader = std::move(entry->second);
      waiting_.erase(entry);
      return reader;
    }
    return nullptr;
  }

  void give_back(const Key& key, std::unique_ptr<Reader> reader) {
    std::unique_ptr<Reader> closed_outside_the_lock;
    const std::lock_guard lock(mutex_);
    waiting_.emplace_front(key, std::move(reader));
    if (waiting_.size() <= capacity_) return;
    closed_outside_the_lock = std::move(waiting_.back().second);
    waiting_.pop_back();
  }

  std::size_t capacity_;
  std::mutex mutex_;
  std::list<std::pair<Key, std::unique_ptr<Reader>>> waiting_;  // used last first
};

}  // namespace thaw::lerobot
