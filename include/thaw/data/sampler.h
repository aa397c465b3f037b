/// Which frame comes when: a pure function of (seed, epoch), so a run resumes from its step number alone.
/// Reference: LeRobot's EpisodeAwareSampler (the order itself is thaw's own).
#pragma once

#include <cstdint>
#include <vector>

namespace thaw {

struct SamplerOptions {
  std::int64_t size = 0;  ///< samples in the dataset
  std::int64_t batch_size = 8;
  bool shuffle = true;
  std::uint64_t seed = 1000;
  void validate() const;
};

class Sampler {
 public:
  explicit Sampler(SamplerOptions options);
  /// ceil(size / batch_size): the last batch of an epoch may be smaller.
  [[nodiscard]] std::int64_t batches_per_epoch() const noexcept;
  /// All positions in the order of an epoch.
  [[nodiscard]] std::vector<std::int64_t> order(std::int64_t epoch) const;
  /// Positions of batch number `batch` counted from the start of training (epoch = batch / batches_per_epoch()).
  [[nodiscard]] std::vector<std::int64_t> positions(std::int64_t batch) const;
  /// The same from the batch's epoch's order, for a caller that keeps it.
  [[nodiscard]] std::vector<std::int64_t> positions(std::int64_t batch, const std::vector<std::int64_t>& order) const;

 private:
  SamplerOptions options_;
};

}  // namespace thaw
