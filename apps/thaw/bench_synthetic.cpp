#include "bench_synthetic.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>

#include "thaw/tensor/random.h"
#include "thaw/train/policy_task.h"

namespace thaw::cli {
namespace {

/// More words than any policy reads.
std::string long_text() {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "pick up the red cube and put it into the box ";
  return text;
}

at::Tensor with_size(const at::Tensor& sample, std::int64_t size) {
  std::vector<at::Tensor> copies(static_cast<std::size_t>(size), sample);
  return at::stack(copies);
}

}  // namespace

Batch synthetic_batch(const Policy& policy, std::int64_t size, std::uint64_t seed) {
  Batch batch;
  RandomKey key{.seed = seed, .stream = RandomStream::sampling};
  for (const Feature& feature : policy.input_features()) {
    ++key.sample;
    const at::Tensor numbers = random_normal(key, feature.shape);
    const bool picture = feature.type == FeatureType::visual;
    batch.tensors[feature.name] = with_size(picture ? (numbers * 40 + 128).clamp(0, 255).to(at::kByte) : numbers, size);
  }
  for (const Feature& feature : policy.output_features()) {
    ++key.sample;
    std::vector<std::int64_t> shape{policy.chunk_size()};
    shape.insert(shape.end(), feature.shape.begin(), feature.shape.end());
    batch.tensors[feature.name] = with_size(random_normal(key, shape), size);
  }
  for (std::int64_t i = 0; i < size; ++i) {
    batch.tasks.push_back(long_text());
    batch.indices.push_back(i);
  }
  return policy.preprocessor()(std::move(batch));
}

at::Tensor SyntheticTask::loss(const MicroStep& micro_step) {
  const auto number = static_cast<std::uint64_t>(micro_step.micro_batch);
  const Draw draw = policy_->draw(batch_, micro_step.seed, DrawPurpose::training, number, draws_);
  return policy_loss(*policy_, boundary_, batch_, draw);
}

}  // namespace thaw::cli
