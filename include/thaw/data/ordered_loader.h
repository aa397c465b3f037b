/// Batches ahead of time, whatever they are made of: worker threads read samples through a function of one's own and
/// gather them; neither order nor content depends on their number.
#pragma once

#include <any>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "thaw/policy/batch.h"

namespace thaw {

struct LoaderOptions {
  std::int64_t batch_size = 8;
  bool shuffle = true;
  std::uint64_t seed = 1000;
  std::int64_t first_batch = 0;  ///< resume: number of the next batch
  int workers = 2;               ///< 0: read in next()
  int prefetch = 4;              ///< batches held ready at most (bounds memory)
  void validate() const;         ///< @throws UsageError naming the field
};

/// One of the samples of a batch.
struct Visit {
  std::int64_t position = 0;  ///< in [0, size)
  std::int64_t epoch = 0;     ///< passes over the data before the one that the batch belongs to
};

class OrderedLoader {
 public:
  /// The sample of a visit. Called by several threads at once, under no-grad.
  using Read = std::function<Sample(const Visit& visit)>;
  /// Makes a batch of its samples, which come in the batch's order. Runs on the worker, under no-grad.
  using Gather = std::function<std::any(std::vector<Sample>)>;

  /// Whether reading `next` right after `before` on the same thread is cheaper than by itself. Of a batch's positions
  /// in rising order, such neighbours are then read by one worker in one go.
  using ReadsOn = std::function<bool(std::int64_t before, std::int64_t next)>;

  /// Order: Sampler over `size` positions. @throws UsageError when `size` or an option is out of range
  OrderedLoader(std::int64_t size, const LoaderOptions& options, Read read, Gather gather, ReadsOn reads_on = {});
  ~OrderedLoader();
  OrderedLoader(const OrderedLoader&) = delete;
  OrderedLoader& operator=(const OrderedLoader&) = delete;
  /// What `gather` made of the next batch, in order, without end. @throws whatever reading or gathering it threw, here
  /// and in order; of several failed samples the first in the batch's order
  [[nodiscard]] std::any next();
  [[nodiscard]] std::int64_t batches_per_epoch() const;
  /// Seconds that next() has waited since construction.
  [[nodiscard]] double wait_seconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thaw
