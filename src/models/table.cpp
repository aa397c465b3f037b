#include <algorithm>

#include "table_impl.h"

namespace thaw::models {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

bool is_projector(const std::string& name) {
  const bool connects = contains(name, ".connector.") || contains(name, ".multi_modal_projector.");
  return connects || name.starts_with("model.state_") || name.starts_with("model.action_") ||
         name.starts_with("model.time_");
}

std::vector<std::string> groups_of(const std::string& name) {
  std::vector<std::string> groups;
  if (contains(name, "norm")) groups.emplace_back("norms");
  if (name.ends_with(".bias")) groups.emplace_back("biases");
  if (contains(name, "embed")) groups.emplace_back("embeddings");
  if (is_projector(name)) groups.emplace_back("projectors");
  return groups;
}

}  // namespace

Part Part::in(const std::string& name, std::int64_t index) const {
  Part part = *this;
  part.stack = name;
  part.block = index;
  return part;
}

void Table::add(const Part& part, const std::string& name, Shape shape) {
  rows_.push_back({.name = name,
                   .shape = std::move(shape),
                   .dtype = part.dtype,
                   .stack = part.stack,
                   .block = part.block,
                   .groups = groups_of(name),
                   .trainable_by_default = part.trainable});
}

void Table::add_biased(const Part& part, const std::string& name, Shape weight_shape) {
  const std::int64_t width = weight_shape.front();
  add(part, name + ".weight", std::move(weight_shape));
  add(part, name + ".bias", {width});
}

void Table::add_to_group(const std::string& group) { rows_.back().groups.push_back(group); }

}  // namespace thaw::models
