#include "thaw/freeze/cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "thaw/core/error.h"

namespace thaw {
namespace {

void require_positive(const char* field, std::int64_t value) {
  if (value >= 1) return;
  throw UsageError(
      Problem{.where = fmt::format("StepShape.{}", field), .expected = "at least 1", .found = std::to_string(value)});
}

/// Forward operations of one sample with all its draws.
double sample_flops(const StageInfo& stage, bool once_per_draw, std::int64_t draws) {
  if (!once_per_draw) return stage.flops;
  const auto k = static_cast<double>(draws);
  return (stage.flops - stage.pair_flops) * k + stage.pair_flops * k * k;
}

/// Backward operations for each forward one: 0, input gradients 1, and the share of its weights that train.
double backward_ratio(const StagePlan& stage) {
  return stage.forward_flops > 0 ? stage.backward_flops / stage.forward_flops : 0.0;
}

}  // namespace

void StepShape::validate() const {
  require_positive("batch_size", batch_size);
  require_positive("draws", draws);
  require_positive("accumulation", accumulation);
  require_positive("prefix_batch", prefix_batch);
}

std::size_t first_draw_stage(const ModelLayout& layout) {
  std::set<std::string> drawn;
  for (const KeyInfo& key : layout.keys) {
    if (key.per_draw) drawn.insert(key.name);
  }
  const auto reads_draw = [&drawn](const StageInfo& stage) {
    return std::any_of(stage.reads.begin(), stage.reads.end(),
                       [&drawn](const std::string& key) { return drawn.contains(key); });
  };
  const auto first = std::find_if(layout.line.begin(), layout.line.end(), reads_draw);
  return static_cast<std::size_t>(first - layout.line.begin());
}

double StepCost::forward_flops() const {
  return std::accumulate(stages.begin(), stages.end(), 0.0,
                         [](double sum, const StageCost& stage) { return sum + stage.forward_flops; });
}

double StepCost::backward_flops() const {
  return std::accumulate(stages.begin(), stages.end(), 0.0,
                         [](double sum, const StageCost& stage) { return sum + stage.backward_flops; });
}

double StepCost::flops() const { return forward_flops() + backward_flops(); }

Json StepCost::to_json() const {
  Json json{{"forward_flops", forward_flops()},
            {"backward_flops", backward_flops()},
            {"optimizer_elements", optimizer_elements},
            {"stages", Json::array()}};
  for (const StageCost& stage : stages) {
    json["stages"].push_back(Json{{"name", stage.name},
                                  {"runs", stage.runs},
                                  {"forward_flops", stage.forward_flops},
                                  {"backward_flops", stage.backward_flops}});
  }
  return json;
}

StepCost step_cost(const ModelLayout& layout, const FreezePlan& plan, const PrefixCut& cut, const StepShape& shape) {
  shape.validate();
  const std::size_t first_draw = first_draw_stage(layout);
  const auto samples = static_cast<double>(shape.batch_size * shape.accumulation);
  StepCost cost{.optimizer_elements = plan.elements(ParameterClass::trainable)};
  for (std::size_t i = 0; i < layout.line.size(); ++i) {
    StageCost stage{.name = layout.line[i].name, .runs = i >= cut.stage};
    if (stage.runs) {
      const double forward = samples * sample_flops(layout.line[i], i >= first_draw, shape.draws);
      const bool runs_again = shape.checkpoint_activations && plan.line[i].backward_walks;
      stage.forward_flops = runs_again ? 2.0 * forward : forward;
      stage.backward_flops = forward * backward_ratio(plan.line[i]);
    }
    cost.stages.push_back(std::move(stage));
  }
  return cost;
}

}  // namespace thaw
