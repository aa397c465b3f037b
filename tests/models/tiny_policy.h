// A small random policy and a batch for it.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "thaw/models/registry.h"
#include "thaw/policy/batch.h"
#include "thaw/policy/policy.h"
#include "thaw/tensor/random.h"

namespace thaw::tiny {

inline at::Tensor normal(std::uint64_t seed, at::IntArrayRef shape) {
  return random_normal({.seed = seed, .stream = RandomStream::test}, shape);
}

// Two cameras of different sizes, one masked for the second sample; padded text; padded actions.
inline Batch batch(std::int64_t size = 2) {
  Batch batch;
  batch.tensors["observation.images.front"] = normal(1, {size, 3, 32, 32}).sigmoid();
  batch.tensors["observation.images.wrist"] = normal(2, {size, 3, 24, 40}).sigmoid();
  at::Tensor camera = at::ones({size}, at::kBool);
  camera[size - 1] = false;
  batch.tensors["observation.images.wrist_padding_mask"] = camera;
  batch.tensors["observation.state"] = normal(3, {size, 6});
  batch.tensors["action"] = normal(4, {size, 8, 5});
  at::Tensor is_pad = at::zeros({size, 8}, at::kBool);
  is_pad[size - 1].narrow(0, 5, 3).fill_(true);
  batch.tensors["action_is_pad"] = is_pad;
  batch.tensors["observation.language.tokens"] = at::arange(size * 7, at::kLong).view({size, 7}) + 10;
  at::Tensor text = at::ones({size, 7}, at::kBool);
  text[size - 1].narrow(0, 4, 3).fill_(false);
  batch.tensors["observation.language.attention_mask"] = text;
  for (std::int64_t i = 0; i < size; ++i) batch.indices.push_back(100 + i);
  batch.tasks.resize(batch.indices.size(), "push");
  return batch;
}

inline InitOptions options() {
  return {.config = "smolvla_tiny",
          .cameras = {{.name = "observation.images.front", .type = FeatureType::visual, .shape = {3, 32, 32}},
                      {.name = "observation.images.wrist", .type = FeatureType::visual, .shape = {3, 24, 40}}},
          .action_dim = 5};
}

inline std::shared_ptr<Policy> policy() { return init_policy(options()); }

}  // namespace thaw::tiny
