/// What freezes and cuts will cost, side by side: the table of `thaw plan`, the largest training that fits into a given
/// memory, and the choice of a cut.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "thaw/core/json.h"
#include "thaw/freeze/calibration.h"
#include "thaw/freeze/cost_model.h"
#include "thaw/freeze/layer_freeze_policy.h"
#include "thaw/freeze/memory_plan.h"
#include "thaw/freeze/plan.h"
#include "thaw/freeze/prefix_cut.h"
#include "thaw/policy/cache_storage.h"
#include "thaw/policy/layout.h"

namespace thaw {

struct ForecastOptions {
  StepShape shape;
  MemoryOptions memory;
  CacheStorage storage = CacheStorage::exact;
  std::int64_t frames = 0;  ///< of the dataset; 0: unknown
  /// Of entries that the cache keeps in memory at most; all of it is taken to be full when `frames` is unknown.
  double cache_memory_bytes = 0.0;
};

/// One freeze with one cut, its cache filled.
struct Forecast {
  std::string blocks;  ///< how many blocks train, "2" or "all"; empty: as the rules say
  std::int64_t trainable_elements = 0;
  PrefixCut cut;
  MemoryPlan memory;
  double peak_until_full = 0.0;  ///< bytes held at most while the training steps fill the cache (`thaw cache` fills it
                                 ///< without training: then `memory` holds from the start)
  StepCost cost;
  double cache_bytes_per_frame = 0.0;
  double cache_bytes = 0.0;            ///< of all frames; 0 when their number is unknown
  std::optional<double> step_seconds;  ///< absent without a calibration
  std::optional<std::int64_t> fits;    ///< the largest batch size within the memory asked about; 0: not even one

  [[nodiscard]] Json to_json() const;
};

/// One forecast for each of `cuts`. `rates` may be null.
[[nodiscard]] std::vector<Forecast> forecast(const ModelLayout& layout, const FreezePlan& plan,
                                             std::span<const PrefixCut> cuts, const ForecastOptions& options,
                                             const MachineRates* rates);

/// `rules` with the last `blocks` blocks of `stack` ("*": of every stack, at most as many as can learn; a negative
/// number: all) made trainable, and the others of those stacks frozen. @throws UsageError as resolve()
[[nodiscard]] FreezePlan resolve_last_blocks(const LayerFreezePolicy& rules, const ModelLayout& layout,
                                             const std::string& stack, std::int64_t blocks);

/// The largest batch size whose peak is at most `limit_bytes`, from an empty cache on; 0 when not even one sample fits.
/// At most 2^20.
[[nodiscard]] std::int64_t largest_batch(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut,
                                         const ForecastOptions& options, double limit_bytes);

/// The most of the last blocks of `stack` that train within `limit_bytes` at the batch size asked for, with the cut of
/// `kind` (the deepest of any kind that the freeze allows for automatic, none where it allows none). nullopt: not even
/// 0.
[[nodiscard]] std::optional<std::int64_t> largest_blocks(const LayerFreezePolicy& rules, const ModelLayout& layout,
                                                         const std::string& stack, CacheCut kind,
                                                         const ForecastOptions& options, double limit_bytes);

/// The cut that makes a step cheapest among those whose cache holds all `options.frames` within `budget_bytes`: in
/// seconds when `rates` is given, else in operations; of equal ones the smallest. None when no cache fits.
[[nodiscard]] PrefixCut choose_cut(const ModelLayout& layout, const FreezePlan& plan, const ForecastOptions& options,
                                   double budget_bytes, const MachineRates* rates = nullptr);

/// The forecasts as a table of at most 100 columns.
[[nodiscard]] std::string forecast_table(std::span<const Forecast> forecasts);
/// Where the peak of one forecast comes from, and its stages' operations in groups of like stages.
[[nodiscard]] std::string forecast_details(const Forecast& forecast);

}  // namespace thaw
