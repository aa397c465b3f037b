#include "thaw/study/measures.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "numbers_impl.h"
#include "thaw/core/error.h"
#include "thaw/core/names.h"

namespace thaw {
namespace {

template <class Item>
const Item& find_by_name(const std::vector<Item>& items, const std::string& name, const std::string& kind) {
  std::vector<std::string> names;
  for (const Item& item : items) {
    if (item.name == name) return item;
    names.push_back(item.name);
  }
  throw UsageError(Problem{.where = name, .expected = "a " + kind, .fix = suggest(name, names)});
}

Json matrix_json(const at::Tensor& matrix) {
  Json rows = Json::array();
  for (std::int64_t i = 0; i < matrix.size(0); ++i) {
    Json row = Json::array();
    for (std::int64_t j = 0; j < matrix.size(1); ++j) row.push_back(number_json(matrix[i][j].item<double>()));
    rows.push_back(std::move(row));
  }
  return rows;
}

Json group_json(const GroupMeasures& group, std::int64_t blocks) {
  Json json{{"name", group.name}};
  if (group.cosine.defined()) {
    json["rows"] = group.rows;
    json["cka"] = {{"rows", group.cka.rows},
                   {"minibatches", group.cka.minibatches},
                   {"biased", matrix_json(group.cka.biased)},
                   {"unbiased", matrix_json(group.cka.unbiased)},
                   {"trimmed", matrix_json(group.cka.trimmed)},
                   {"concatenated", numbers_json(group.concatenated)}};
    json["block_influence"] = numbers_json(group.block_influence(blocks));
    json["cosine"] = matrix_json(group.cosine);
    json["angular_distance"] = matrix_json(group.angular);
  }
  if (!group.gate_probe.empty()) json["gate_probe"] = numbers_json(group.gate_probe);
  return json;
}

Json stack_json(const StackMeasures& stack) {
  Json json{{"name", stack.name}, {"blocks", stack.blocks}, {"groups", Json::array()}};
  for (const GroupMeasures& group : stack.groups) json["groups"].push_back(group_json(group, stack.blocks));
  json["massive_dimensions"] = Json::array();
  for (const MassiveDimension& massive : stack.massive) {
    json["massive_dimensions"].push_back({{"group", massive.group},
                                          {"state", massive.state},
                                          {"dimension", massive.dimension},
                                          {"mean_square_ratio", number_json(massive.mean_square_ratio)},
                                          {"variance_ratio", number_json(massive.variance_ratio)},
                                          {"variance_share", number_json(massive.variance_share)}});
  }
  if (!stack.relative_gradient.empty()) json["relative_gradient"] = numbers_json(stack.relative_gradient);
  if (!stack.fisher.empty()) json["fisher"] = numbers_json(stack.fisher);
  if (!stack.divergence.empty()) json["divergence"] = numbers_json(stack.divergence);
  return json;
}

/// 1 - trimmed CKA over the block, the mean over the groups of tokens ("all" mixes kinds that differ by themselves).
double cka_distance(const StackMeasures& stack, std::int64_t block) {
  double sum = 0.0;
  std::int64_t count = 0;
  for (const GroupMeasures& group : stack.groups) {
    const bool mixed = group.name == "all" && stack.groups.size() > 1;
    if (mixed || !group.cka.trimmed.defined() || block + 1 >= group.cka.trimmed.size(0)) continue;
    sum += 1.0 - group.cka.trimmed[block][block + 1].item<double>();
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN();
}

/// Adds `values` unless there are none; what is no number becomes 0.
void add_series(std::vector<MeasureSeries>& all, const std::string& stack, const std::string& measure,
                std::vector<double> values) {
  if (values.empty()) return;
  for (double& value : values) value = std::isfinite(value) ? value : 0.0;
  all.push_back({.stack = stack, .measure = measure, .values = std::move(values)});
}

void add_stack_series(std::vector<MeasureSeries>& all, const StackMeasures& stack) {
  if (!stack.groups.empty()) {
    const GroupMeasures& whole = stack.groups.front();
    add_series(all, stack.name, "block influence", whole.block_influence(stack.blocks));
    if (whole.cosine.defined()) {
      std::vector<double> distances;
      for (std::int64_t block = 0; block < stack.blocks; ++block) distances.push_back(cka_distance(stack, block));
      add_series(all, stack.name, "CKA distance", std::move(distances));
    }
    add_series(all, stack.name, "GateProbe", whole.gate_probe);
  }
  add_series(all, stack.name, "relative gradient norm", stack.relative_gradient);
  add_series(all, stack.name, "Fisher information", stack.fisher);
  add_series(all, stack.name, "divergence", stack.divergence);
}

}  // namespace

std::vector<double> GroupMeasures::block_influence(std::int64_t blocks) const {
  std::vector<double> influence;
  if (!cosine.defined()) return influence;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const bool measured = block + 1 < cosine.size(0);
    influence.push_back(measured ? 1.0 - cosine[block][block + 1].item<double>()
                                 : std::numeric_limits<double>::quiet_NaN());
  }
  return influence;
}

const GroupMeasures& StackMeasures::group(const std::string& group_name) const {
  if (group_name == "all" && groups.size() == 1) return groups.front();
  return find_by_name(groups, group_name, "group of tokens in stack '" + name + "'");
}

const StackMeasures& MeasureReport::stack(const std::string& name) const {
  return find_by_name(stacks, name, "measured stack");
}

Json MeasureReport::to_json() const {
  Json json{{"schema", 1}, {"type", type}, {"samples", samples}, {"seed", seed}, {"stacks", Json::array()}};
  if (!frames.empty()) json["frames"] = frames;
  for (const StackMeasures& stack : stacks) json["stacks"].push_back(stack_json(stack));
  json["importance"] = Json::array();
  for (const MeasureSeries& series : measure_series(*this)) {
    json["importance"].push_back({{"stack", series.stack}, {"measure", series.measure}, {"values", series.values}});
  }
  return json;
}

std::vector<MeasureSeries> measure_series(const MeasureReport& report) {
  std::vector<MeasureSeries> all;
  for (const StackMeasures& stack : report.stacks) add_stack_series(all, stack);
  return all;
}

}  // namespace thaw
