// Sampling for several observations in one call.
#include <cmath>

#include "models/tiny_cases.h"
#include "thaw/tensor/compare.h"

namespace thaw::policy_sampling_test {
namespace {

const std::string kTokens = "observation.language.tokens";
const std::string kTextMask = "observation.language.attention_mask";
const std::string kWrist = "observation.images.wrist";
const std::string kWristMask = kWrist + "_padding_mask";

/// Three observations with prompts of 7, 5 and 4 tokens. SmolVLA's third has no second camera, pi0's have none in the
/// middle.
Batch three_observations(const tiny::TinyCase& each) {
  Batch batch = each.batch(3);
  batch.tensors[kTextMask][1].narrow(0, 5, 2).fill_(false);
  return batch;
}

/// One of them by itself: a prompt without padding, and no trace of a camera that is not there.
Batch alone(const Batch& all, std::int64_t row) {
  Batch one = all;
  for (auto& [key, tensor] : one.tensors) tensor = tensor.narrow(0, row, 1);
  const std::int64_t length = one.at(kTextMask).sum().item<std::int64_t>();
  for (const std::string& key : {kTokens, kTextMask}) one.tensors[key] = one.at(key).narrow(1, 0, length);
  if (one.has(kWristMask) && !one.at(kWristMask).item<bool>()) one.tensors.erase(kWrist);
  one.tensors.erase(kWristMask);
  one.indices = {all.indices[static_cast<std::size_t>(row)]};
  one.tasks = {all.tasks[static_cast<std::size_t>(row)]};
  return one;
}

class PolicySampling : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Types, PolicySampling, testing::Values("smolvla", "pi0", "pi05"),
                         [](const auto& type) { return type.param; });

// Another number of rows is another order of summation. A float32 sum of n terms is off by about u · sqrt(n), u = 2^-24
// and n <= 128 here; a block adds up about a dozen times one after the other, in both streams, and what is independent
// adds up as its root: u · sqrt(128) · sqrt(12 · 2 · 4 blocks) of the velocity. The ten steps of a chunk add up a whole
// velocity. Three times that bounds the difference, relative to the largest action.
TEST_P(PolicySampling, ThreeObservationsInOneCallGiveTheActionsOfThreeCalls) {
  const tiny::TinyCase each = tiny::tiny_case(GetParam());
  const Batch batch = three_observations(each);
  const at::Tensor noise = tiny::normal(9, {3, 8, 10});
  const at::Tensor together = each.policy->sample(batch, noise);
  const double bound = 3.0 * std::ldexp(1.0, -24) * std::sqrt(128.0) * std::sqrt(12.0 * 2.0 * 4.0);
  for (std::int64_t row = 0; row < 3; ++row) {
    const at::Tensor single = each.policy->sample(alone(batch, row), noise.narrow(0, row, 1));
    const Comparison same =
        compare_tensors(together.narrow(0, row, 1).contiguous(), single, {.relative_to_max = bound});
    EXPECT_TRUE(same) << "row " << row << ": " << same.message;
    std::cout << "[ sampling ] " << GetParam() << " row " << row << ": " << same.worst << " of the bound\n";
  }
}

TEST_P(PolicySampling, AnObservationDoesNotSeeTheOthersOfItsBatch) {
  const tiny::TinyCase each = tiny::tiny_case(GetParam());
  Batch batch = three_observations(each);
  const at::Tensor noise = tiny::normal(9, {3, 8, 10});
  const at::Tensor before = each.policy->sample(batch, noise);
  batch.tensors["observation.images.front"][1].mul_(0.5);
  batch.tensors[kTokens][1][0] = 500;
  const at::Tensor after = each.policy->sample(batch, noise);
  EXPECT_TRUE(bitwise_equal(after[0], before[0]));
  EXPECT_FALSE(bitwise_equal(after[1], before[1]));
  EXPECT_TRUE(bitwise_equal(after[2], before[2]));
}

}  // namespace
}  // namespace thaw::policy_sampling_test
