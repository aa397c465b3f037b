/// Batches ahead of time: worker threads read samples, order and content do not depend on their number.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "thaw/data/dataset.h"
#include "thaw/data/sampler.h"

namespace thaw {

struct LoaderOptions {
  std::int64_t batch_size = 8;
  bool shuffle = true;
  std::uint64_t seed = 1000;
  std::int64_t first_batch = 0;  ///< resume: number of the next batch
  int workers = 2;               ///< 0: read in next()
  int prefetch = 4;              ///< batches held ready at most (bounds memory)
  void validate() const;
};

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
