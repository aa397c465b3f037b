/// Batches of a dataset ahead of time: an OrderedLoader that reads its samples and collates them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "thaw/data/dataset.h"
#include "thaw/data/ordered_loader.h"

namespace thaw {

class DataLoader {
 public:
  /// `transform` runs on the worker, after collate (tokenising, normalising); may be empty.
  DataLoader(LeRobotDataset dataset, LoaderOptions options, std::function<Batch(Batch)> transform = {});
  ~DataLoader();
  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;
  /// The next batch, in order, without end. @throws whatever reading it threw, here and in order
  [[nodiscard]] Batch next();
  [[nodiscard]] std::int64_t batches_per_epoch() const;
  /// Seconds that next() has waited since construction.
  [[nodiscard]] double wait_seconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw
