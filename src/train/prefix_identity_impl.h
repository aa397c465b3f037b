// What a cached prefix depends on beside the frame: any change of it must miss.
#pragma once

#include <string>

#include "thaw/cache/prefix_cache.h"
#include "thaw/data/image_transforms.h"
#include "thaw/freeze/plan.h"
#include "thaw/freeze/prefix_cut.h"
#include "thaw/policy/policy.h"
#include "thaw/train/options.h"

namespace thaw {

/// Weights before the cut and what the plan says of them, configuration, preprocessing with its statistics, tokenizer,
/// precision, device, libraries, dataset, what changes its pictures. `plan` must have digests; `dataset_digest`:
/// LeRobotDataset::digest(); `transforms` may be null.
[[nodiscard]] CacheIdentity prefix_identity(const Policy& policy, const FreezePlan& plan, const PrefixCut& cut,
                                            Precision precision, at::Device device, const std::string& dataset_digest,
                                            const ImageTransforms* transforms);

/// Names of the parameters that stages before the cut use, in the layout's order.
[[nodiscard]] std::vector<std::string> parameters_before(const ModelLayout& layout, std::size_t cut);

/// Whether anything before the cut reads what begin() makes of something other than images (the text).
[[nodiscard]] bool depends_on_text(const ModelLayout& layout, std::size_t cut);

}  // namespace thaw
