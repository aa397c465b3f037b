#include "thaw/freeze/forecast.h"

#include <fmt/format.h>

#include <algorithm>

#include "thaw/core/error.h"

namespace thaw {
namespace {

constexpr std::int64_t kLargestBatch = std::int64_t{1} << 20;

/// The memory options with what a cache at `cut` holds in memory.
MemoryOptions with_cache(const ModelLayout& layout, const PrefixCut& cut, const ForecastOptions& options) {
  MemoryOptions memory = options.memory;
  if (cut.stage == 0) return memory;
  const double frame = cache_bytes_per_sample(layout, cut, options.storage, memory.compute);
  memory.cache_bytes = options.cache_memory_bytes;
  if (options.frames > 0)
    memory.cache_bytes = std::min(memory.cache_bytes, frame * static_cast<double>(options.frames));
  return memory;
}

/// Of a step that finds nothing in the cache: every weight is needed still.
double peak_until_full(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut, const StepShape& shape,
                       const ForecastOptions& options) {
  return plan_memory(layout, plan, PrefixCut{}, shape, with_cache(layout, cut, options)).peak;
}

/// Of a whole run, the pass that fills the cache included.
double peak_at(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut, const ForecastOptions& options,
               std::int64_t batch_size) {
  StepShape shape = options.shape;
  shape.batch_size = batch_size;
  const double full = plan_memory(layout, plan, cut, shape, with_cache(layout, cut, options)).peak;
  return cut.stage == 0 ? full : std::max(full, peak_until_full(layout, plan, cut, shape, options));
}

std::vector<const BlockStack*> stacks_named(const ModelLayout& layout, const std::string& stack) {
  std::vector<const BlockStack*> stacks;
  if (stack != "*") return {&layout.stack(stack)};
  for (const BlockStack& each : layout.stacks) stacks.push_back(&each);
  return stacks;
}

std::int64_t blocks_that_can_learn(const FreezePlan& plan, const std::string& stack) {
  for (const StackPlan& planned : plan.stacks) {
    if (planned.name == stack) return planned.blocks - static_cast<std::int64_t>(planned.dead_blocks.size());
  }
  return 0;
}

/// Which blocks can learn at all, whatever is frozen.
FreezePlan everything_trains(const ModelLayout& layout) {
  LayerFreezePolicy all;
  all.train("*");
  return all.resolve(layout);
}

PrefixCut cut_of(const ModelLayout& layout, const FreezePlan& plan, CacheCut kind) {
  if (kind == CacheCut::automatic) return deepest_cuts(layout, plan).back();
  for (const PrefixCut& cut : deepest_cuts(layout, plan)) {
    if (cut.kind == kind) return cut;
  }
  return {};
}

/// What a step costs, for comparison: seconds, or operations where nothing was measured.
double price(const Forecast& forecast) { return forecast.step_seconds.value_or(forecast.cost.flops()); }

}  // namespace

std::vector<Forecast> forecast(const ModelLayout& layout, const FreezePlan& plan, std::span<const PrefixCut> cuts,
                               const ForecastOptions& options, const MachineRates* rates) {
  std::vector<Forecast> forecasts;
  for (const PrefixCut& cut : cuts) {
    Forecast one{.trainable_elements = plan.elements(ParameterClass::trainable), .cut = cut};
    one.memory = plan_memory(layout, plan, cut, options.shape, with_cache(layout, cut, options));
    one.peak_until_full = cut.stage == 0 ? one.memory.peak : peak_until_full(layout, plan, cut, options.shape, options);
    one.cost = step_cost(layout, plan, cut, options.shape);
    one.cache_bytes_per_frame = cache_bytes_per_sample(layout, cut, options.storage, options.memory.compute);
    one.cache_bytes = one.cache_bytes_per_frame * static_cast<double>(options.frames);
    if (rates != nullptr) one.step_seconds = step_seconds(layout, plan, cut, options.shape, options.memory, *rates);
    forecasts.push_back(std::move(one));
  }
  return forecasts;
}

FreezePlan resolve_last_blocks(const LayerFreezePolicy& rules, const ModelLayout& layout, const std::string& stack,
                               std::int64_t blocks) {
  const FreezePlan able = everything_trains(layout);
  LayerFreezePolicy policy = rules;
  for (const BlockStack* each : stacks_named(layout, stack)) {
    const std::int64_t most = blocks_that_can_learn(able, each->name);
    const std::int64_t wanted = stack == "*" ? std::min(blocks, most) : blocks;
    if (most == 0 || blocks == 0) {
      policy.none(each->name);
    } else if (blocks < 0) {
      policy.all(each->name);
    } else {
      policy.last(each->name, wanted);
    }
  }
  return policy.resolve(layout);
}

std::int64_t largest_batch(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut,
                           const ForecastOptions& options, double limit_bytes) {
  const auto fits = [&](std::int64_t batch) { return peak_at(layout, plan, cut, options, batch) <= limit_bytes; };
  if (!fits(1)) return 0;
  std::int64_t least = 1;  // fits
  std::int64_t too_many = 2;
  while (too_many <= kLargestBatch && fits(too_many)) {
    least = too_many;
    too_many *= 2;
  }
  while (too_many - least > 1) {
    const std::int64_t middle = least + (too_many - least) / 2;
    (fits(middle) ? least : too_many) = middle;
  }
  return std::min(least, kLargestBatch);
}

std::optional<std::int64_t> largest_blocks(const LayerFreezePolicy& rules, const ModelLayout& layout,
                                           const std::string& stack, CacheCut kind, const ForecastOptions& options,
                                           double limit_bytes) {
  const FreezePlan able = everything_trains(layout);
  std::int64_t most = 0;
  for (const BlockStack* each : stacks_named(layout, stack)) {
    most = std::max(most, blocks_that_can_learn(able, each->name));
  }
  for (std::int64_t blocks = most; blocks >= 0; --blocks) {
    const FreezePlan plan = resolve_last_blocks(rules, layout, stack, blocks);
    const PrefixCut cut = cut_of(layout, plan, kind);
    if (peak_at(layout, plan, cut, options, options.shape.batch_size) <= limit_bytes) return blocks;
  }
  return std::nullopt;
}

PrefixCut choose_cut(const ModelLayout& layout, const FreezePlan& plan, const ForecastOptions& options,
                     double budget_bytes, const MachineRates* rates) {
  const std::vector<Forecast> all = forecast(layout, plan, possible_cuts(layout, plan), options, rates);
  const Forecast* best = &all.front();  // none: it needs no room
  for (const Forecast& candidate : all) {
    if (candidate.cache_bytes > budget_bytes) continue;
    const bool cheaper = price(candidate) < price(*best);
    const bool smaller =
        price(candidate) == price(*best) && candidate.cache_bytes_per_frame < best->cache_bytes_per_frame;
    if (cheaper || smaller) best = &candidate;
  }
  return best->cut;
}

}  // namespace thaw
