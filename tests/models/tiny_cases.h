// Small policies of every type with batches for them.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "models/tiny_pi.h"
#include "models/tiny_policy.h"

namespace thaw::tiny {

struct TinyCase {
  std::shared_ptr<Policy> policy;
  std::function<Batch(std::int64_t size)> batch;
};

inline TinyCase tiny_case(const std::string& type) {
  if (type == "smolvla") return {.policy = policy(), .batch = [](std::int64_t size) { return batch(size); }};
  return {.policy = pi_policy(type), .batch = pi_batch};
}

}  // namespace thaw::tiny
