// Small random pi0 and pi0.5 policies and a batch for them.
#pragma once

#include <memory>
#include <string>

#include "models/tiny_policy.h"

namespace thaw::tiny {

inline const std::string kSide = "observation.images.side";

inline InitOptions pi_options(const std::string& type) {
  const auto camera = [](const std::string& name, std::vector<std::int64_t> shape) {
    return Feature{.name = name, .type = FeatureType::visual, .shape = std::move(shape)};
  };
  return {.config = type + "_tiny",
          .cameras = {camera("observation.images.front", {3, 42, 42}), camera(kSide, {3, 42, 42}),
                      camera("observation.images.wrist", {3, 24, 40})},
          .action_dim = 5};
}

inline std::shared_ptr<Policy> pi_policy(const std::string& type) { return init_policy(pi_options(type)); }

// The camera in the middle is missing; one that must be resized; padded text; padded actions.
inline Batch pi_batch(std::int64_t size = 2) {
  Batch batch = tiny::batch(size);
  batch.tensors.erase("observation.images.wrist_padding_mask");
  batch.tensors["observation.images.front"] = normal(1, {size, 3, 42, 42}).sigmoid();
  return batch;
}

}  // namespace thaw::tiny
