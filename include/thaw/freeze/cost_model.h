/// What one training step computes, by stage of the line: operations before the gradient boundary once, frozen ones
/// behind it twice, trained ones three times, those before a filled cache's cut not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/freeze/plan.h"
#include "thaw/freeze/prefix_cut.h"
#include "thaw/policy/layout.h"

namespace thaw {

/// What a step is made of.
struct StepShape {
  std::int64_t batch_size = 8;          ///< samples of a micro-batch
  std::int64_t draws = 1;               ///< noise draws that share one prefix
  std::int64_t accumulation = 1;        ///< micro-batches of a step
  std::int64_t prefix_batch = 1;        ///< samples that go through the frozen prefix at a time where no cache gives it
  bool checkpoint_activations = false;  ///< stages under grad keep their inputs alone and run again for backward

  /// @throws UsageError naming the field
  void validate() const;
};

/// The first stage that reads what belongs to one draw (KeyInfo::per_draw); the line's length where none does.
[[nodiscard]] std::size_t first_draw_stage(const ModelLayout& layout);

struct StageCost {
  std::string name;
  bool runs = true;             ///< false before the cut of a filled cache
  double forward_flops = 0.0;   ///< of a step; twice where checkpointing runs the stage again
  double backward_flops = 0.0;  ///< of a step
  [[nodiscard]] double flops() const { return forward_flops + backward_flops; }
};

struct StepCost {
  std::vector<StageCost> stages;
  std::int64_t optimizer_elements = 0;  ///< trained elements that the optimizer goes over

  [[nodiscard]] double flops() const;
  [[nodiscard]] double forward_flops() const;
  [[nodiscard]] double backward_flops() const;
  [[nodiscard]] Json to_json() const;
};

/// Costs of a step that finds everything before `cut` in the cache. @throws UsageError from shape.validate()
[[nodiscard]] StepCost step_cost(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut,
                                 const StepShape& shape);

}  // namespace thaw
