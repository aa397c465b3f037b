/// What training a plan will hold in memory, predicted from shapes before anything is allocated.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/freeze/cost_model.h"
#include "thaw/freeze/plan.h"
#include "thaw/freeze/prefix_cut.h"
#include "thaw/policy/cache_storage.h"
#include "thaw/policy/layout.h"

namespace thaw {

struct MemoryOptions {
  at::ScalarType compute = at::kFloat;  ///< of frozen matrices and of activations (float32, bfloat16, half)
  bool ema = false;                     ///< a moving average of what trains
  double cache_bytes = 0.0;             ///< of entries that a prefix cache holds in memory
  bool weights_return = true;           ///< what a full cache has no use for is read again at the end of a run
  std::int64_t batches_ahead = 3;       ///< of pictures: the loader's two, and the one that is used
  std::int64_t entries_ahead = 1;       ///< batches of a cache's entries: the loader's one
  /// What comes with training beside tensors: pages of libraries, a tokenizer's tables, small blocks.
  double process_bytes = 0.0;
};

/// When in a run the most is held.
enum class MemoryPhase { loading, frozen_prefix, forward, backward, update };
[[nodiscard]] std::string_view memory_phase_name(MemoryPhase phase);

struct StageMemory {
  std::string name;
  double keys = 0.0;       ///< bytes of the keys it writes, for the samples that are in flight there
  double saved = 0.0;      ///< kept for backward
  double workspace = 0.0;  ///< lives while it runs
};

/// Bytes, of a policy that was loaded from a folder. The peak is above what the process held before that.
struct MemoryPlan {
  double frozen_weights = 0.0;     ///< in the compute dtype
  double trainable_weights = 0.0;  ///< float32 masters
  double released_weights = 0.0;  ///< that no stage uses, or none behind a filled cache's cut: held while loading alone
  double copies = 0.0;            ///< of matrices that train, in a shorter compute dtype: autocast makes them in a step
  double gradients = 0.0;
  double moments = 0.0;
  double ema = 0.0;
  double process = 0.0;      ///< MemoryOptions::process_bytes
  double cache = 0.0;        ///< entries that a prefix cache holds in memory
  double read_ahead = 0.0;   ///< of batches: pictures, float32, where stages read any, and entries of a cache
  double inputs = 0.0;       ///< what begin() and add_draw() make of a batch, images that go by chunks apart
  double prefix = 0.0;       ///< what lives at the gradient boundary, for a batch
  double activations = 0.0;  ///< after the forward pass: the keys in the state, and what autograd keeps beside them
  double workspace = 0.0;    ///< the most that a stage needs while it runs
  double peak = 0.0;
  MemoryPhase peak_phase = MemoryPhase::loading;
  std::string peak_stage;  ///< in the phases that run stages
  std::vector<StageMemory> stages;

  /// Weights, moments and the moving average: held for the whole run.
  [[nodiscard]] double resident() const { return frozen_weights + trainable_weights + moments + ema; }
  [[nodiscard]] Json to_json() const;
};

/// Memory of a run whose cache holds everything before `cut`. @throws UsageError when the layout knows no sizes of keys
[[nodiscard]] MemoryPlan plan_memory(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut,
                                     const StepShape& shape, const MemoryOptions& options);

/// Bytes that a cache keeps for one sample at `cut`. @throws UsageError when the layout lacks the size of a key
[[nodiscard]] double cache_bytes_per_sample(const ModelLayout& layout, const PrefixCut& cut, CacheStorage storage,
                                            at::ScalarType compute);

/// MemoryPlan::activations of a step without a cache.
[[nodiscard]] double activation_bytes(const ModelLayout& layout, const FreezePlan& plan, const StepShape& shape,
                                      at::ScalarType compute = at::kFloat);

}  // namespace thaw
