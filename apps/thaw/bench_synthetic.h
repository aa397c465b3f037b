// A batch of the right shape without a dataset, and a task that trains on it again and again.
#pragma once

#include <memory>

#include "thaw/policy/policy.h"
#include "thaw/train/task.h"

namespace thaw::cli {

/// Random pictures at the configured sizes, states and actions, and a text of the policy's greatest length,
/// preprocessed. A pure function of its arguments. @throws IoError when the policy's tokenizer cannot be found
[[nodiscard]] Batch synthetic_batch(const Policy& policy, std::int64_t size, std::uint64_t seed);

/// Every micro-batch is the same batch, with its own draws.
class SyntheticTask final : public TrainTask {
 public:
  SyntheticTask(std::shared_ptr<Policy> policy, std::size_t boundary, std::int64_t draws, Batch batch)
      : policy_(std::move(policy)), boundary_(boundary), draws_(draws), batch_(std::move(batch)) {}
  [[nodiscard]] at::Tensor loss(const MicroStep& micro_step) override;
  [[nodiscard]] std::vector<std::int64_t> last_samples() const override { return batch_.indices; }

 private:
  std::shared_ptr<Policy> policy_;
  std::size_t boundary_;
  std::int64_t draws_;
  Batch batch_;
};

}  // namespace thaw::cli
